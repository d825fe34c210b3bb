"""Containers that were paused: the engine calls them unhealthy until it asks again, and nobody believes it."""

from __future__ import annotations

import json
import subprocess

import pytest

from conche.engine.connection import Engine
from tests.backup.checkouts import with_backup
from tests.edged import EdgedStack
from tests.stacks import SmallStack

pytestmark = pytest.mark.engine

SELDOM = ("interval: 3s", "interval: 10m")


def called(engine: Engine, name: str) -> str:
    """What the engine calls the health of a container."""
    return str(engine.client.api.inspect_container(name)["State"]["Health"]["Status"])


def paused(*names: str) -> None:
    for verb in ("pause", "unpause"):
        subprocess.run(["docker", verb, *names], check=True, capture_output=True)


def test_after_a_pause_env_status_and_env_up_ask_for_themselves(small: SmallStack, engine: Engine) -> None:
    small.replace("compose/dev.yaml", *SELDOM)
    small.up()
    before = [(one.id, one.started_at) for one in small.containers(engine)]

    paused(f"{small.name}-web")
    status = small.json("env.status", "--env", "dev")
    up = small.invoke("env.up")

    assert called(engine, f"{small.name}-web") == "unhealthy"
    assert (status["value"][0]["healthy"], status["value"][0]["services"][0]["health"]) == (True, "healthy")
    assert "Nothing to do" in up.stdout
    assert [(one.id, one.started_at) for one in small.containers(engine)] == before


def test_one_that_is_ill_after_a_pause_is_reported_and_given_its_time(small: SmallStack, engine: Engine) -> None:
    small.replace("compose/dev.yaml", *SELDOM)
    small.up()
    paused(f"{small.name}-web")
    small.behave("ill")

    status = small.invoke("env.status", "--env", "dev", "--json")
    planned = small.json("env.up", "--dry-run")["plan"]

    assert status.returncode == 1
    assert json.loads(status.stdout)["value"][0]["services"][0]["health"] == "starting"
    assert [(one["action"], one["subject"]) for one in planned] == [("await", "service web")]


def test_a_backup_leaves_a_healthy_environment(small: SmallStack, engine: Engine) -> None:
    small.replace("compose/dev.yaml", *SELDOM)
    with_backup(small)
    small.up()
    subprocess.run(["docker", "exec", f"{small.name}-web", "sh", "-c", "echo first > /kept/journal"], check=True)

    done = small.invoke("backup.create")
    status = small.invoke("env.status", "--env", "dev")
    small.behave("ill")
    ill = small.invoke("backup.create")

    assert (done.returncode, status.returncode) == (0, 0), done.stdout + done.stderr + status.stdout
    assert "after the backup of kept" not in done.stderr
    assert called(engine, f"{small.name}-web") == "unhealthy"
    # It was ill before already, so that is none of the backup's doing.
    assert "after the backup of kept" not in ill.stderr


def test_a_release_leaves_alone_what_was_paused_a_moment_ago(fresh: EdgedStack, engine: Engine) -> None:
    fresh.replace("compose/prod.yaml", *SELDOM)
    fresh.replace("compose/prod.yaml", "interval: 15s", SELDOM[1])
    assert fresh.deploy(fresh.version("one")).returncode == 0
    before = {one.service: (one.id, one.started_at) for one in fresh.containers(engine)}

    paused(*(one.name for one in fresh.containers(engine)))
    same = fresh.deploy(fresh.version("one"), "--json")
    up = fresh.invoke("env.up", "--env", "prod")
    other = fresh.deploy(fresh.version("two"), "--json")

    after = {one.service: (one.id, one.started_at) for one in fresh.containers(engine)}
    assert json.loads(same.stdout)["plan"] == []
    assert "Nothing to do" in up.stdout
    assert other.returncode == 0, other.stderr
    assert {name: after[name] == was for name, was in before.items()} == {"edge": True, "store": True, "web": False}


def test_what_stays_paused_goes_on_without_a_restart(fresh: EdgedStack, engine: Engine) -> None:
    assert fresh.deploy(fresh.version("one")).returncode == 0
    before = {one.id: (one.started_at, "running") for one in fresh.containers(engine)}
    names = [one.name for one in fresh.containers(engine) if one.service != "edge"]

    subprocess.run(["docker", "pause", *names], check=True, capture_output=True)
    recovered = fresh.invoke("env.recover", "--env", "prod")
    up = fresh.json("env.up", "--env", "prod")

    assert recovered.returncode == 0, recovered.stderr
    assert [(one["action"], one["subject"]) for one in up["plan"]] == [("unpause", "service store")]
    assert {one.id: (one.started_at, one.state) for one in fresh.containers(engine)} == before
