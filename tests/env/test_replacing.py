"""A service that env.up replaces: where the engine makes the new container but cannot start it, the old one runs on."""

from __future__ import annotations

import signal
import subprocess

import pytest

from conche.engine import kept
from conche.engine.connection import Engine
from conche.engine.containers import Container
from tests.stacks import SmallStack

pytestmark = pytest.mark.engine

DB = """\
services:
  db:
    image: python:3.11-slim-bookworm
    command: [sleep, infinity]
    init: true
    stop_grace_period: 1s
    hostname: store
    environment: {V: "1"}
    volumes: ["data:/data", "/anonymous"]
    networks: {front: {aliases: [store]}, back: {}}
volumes: {data: {}}
networks: {front: {}, back: {}}
"""

UNSTARTABLE = {
    "user": "    user: nosuchuser\n",
    "device": "    devices: [/dev/nowhere:/dev/nowhere]\n",
    "entrypoint": "    entrypoint: [/nowhere/program]\n",
    "working directory over a file": "    working_dir: /etc/passwd\n",
    "crash": "    entrypoint: [python3, -c, 'raise SystemExit(3)']\n",
}


@pytest.fixture
def db(small: SmallStack) -> SmallStack:
    """A service that is not tried beside itself, and runs."""
    small.write("compose/dev.yaml", DB)
    small.up()
    return small


def change(stack: SmallStack, more: str) -> None:
    stack.replace("compose/dev.yaml", 'V: "1"', 'V: "2"')
    stack.replace("compose/dev.yaml", "    init: true\n", f"    init: true\n{more}")


def made_of(engine: Engine, one: Container) -> dict[str, object]:
    """What matters of a container to whoever uses it."""
    seen = engine.client.api.inspect_container(one.id)
    networks = seen["NetworkSettings"]["Networks"]
    return {
        "name": one.name,
        "state": one.state,
        "hash": one.config_hash,
        "labels": dict(one.labels),
        "image": (one.image, one.image_id),
        "environment": sorted(seen["Config"]["Env"]),
        "hostname": seen["Config"]["Hostname"],
        "mounts": sorted((mount["Destination"], mount["Name"]) for mount in seen["Mounts"]),
        "aliases": {name: sorted(set(given["Aliases"]) - {one.id[:12]}) for name, given in networks.items()},
    }


def leftovers(engine: Engine, stack: SmallStack) -> list[str]:
    found = [name.lstrip("/") for one in engine.client.api.containers(all=True) for name in one["Names"]]
    return [name for name in found if stack.name in name and name != f"{stack.project}-db-1"]


@pytest.mark.parametrize("how", UNSTARTABLE)
def test_what_ran_runs_as_before_where_its_successor_cannot_be_started(
    db: SmallStack, engine: Engine, how: str
) -> None:
    (before,) = db.containers(engine)
    expected = made_of(engine, before)
    engine.client.api.exec_start(engine.client.api.exec_create(before.id, ["touch", "/anonymous/kept"])["Id"])
    change(db, UNSTARTABLE[how])

    failed = db.invoke("env.up")

    assert failed.returncode == 4, failed.stderr
    assert "unwinding: bring db back as it was" in failed.stderr
    (after,) = db.containers(engine)
    assert made_of(engine, after) == expected
    listed = engine.client.api.exec_create(after.id, ["ls", "/anonymous"])["Id"]
    assert engine.client.api.exec_start(listed) == b"kept\n"
    assert leftovers(engine, db) == []


def test_what_is_replaced_well_leaves_nothing_behind(db: SmallStack, engine: Engine) -> None:
    change(db, "")

    done = db.invoke("env.up")

    assert done.returncode == 0, done.stderr
    (after,) = db.containers(engine)
    assert "V=2" in engine.client.api.inspect_container(after.id)["Config"]["Env"]
    assert leftovers(engine, db) == []


def killed_while(stack: SmallStack, step: str) -> None:
    """env.up, killed outright at a step; Compose, which outlives it, has come to its end afterwards."""
    with subprocess.Popen(
        stack.argv("env.up"), cwd=stack.folder, env=stack.environment(), stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        next(line for line in process.stderr if line.startswith(step))
        process.send_signal(signal.SIGKILL)
        process.stderr.read()


@pytest.mark.parametrize("corrected", [True, False], ids=["corrected", "again"])
def test_what_a_killed_replacement_has_lost_comes_back_with_the_next_command(
    db: SmallStack, engine: Engine, corrected: bool
) -> None:
    (before,) = db.containers(engine)
    expected = made_of(engine, before)
    change(db, UNSTARTABLE["user"])
    # As a kill between the making of the new container and its start leaves it.
    kept.keep(engine, before)
    engine.client.api.remove_container(before.id, force=True)
    api = engine.client.api
    half = api.create_container(
        "python:3.11-slim-bookworm", name=f"0123456789ab_{before.name}", labels=dict(before.labels)
    )
    if corrected:
        db.replace("compose/dev.yaml", UNSTARTABLE["user"], "")

    planned = [(step["action"], step["subject"]) for step in db.json("env.up", "--dry-run")["plan"]]
    status = db.json("env.status")["value"][0]
    healed = db.invoke("env.up")

    assert planned == [("restore", "service db"), ("recreate", "service db")]
    assert f"0123456789ab_{before.name}" in status["leftovers"]
    assert half["Id"] not in [one.id for one in db.containers(engine)]
    (after,) = db.containers(engine)
    if corrected:
        assert healed.returncode == 0, healed.stderr
        assert "V=2" in engine.client.api.inspect_container(after.id)["Config"]["Env"]
    else:
        assert healed.returncode == 4, healed.stderr
        assert made_of(engine, after) == expected
    assert leftovers(engine, db) == []


def test_a_killed_command_whose_replacement_came_through_leaves_a_twin_for_the_next(
    db: SmallStack, engine: Engine
) -> None:
    change(db, "")
    killed_while(db, "replacing db")

    healed = db.invoke("env.up")

    assert healed.returncode == 0, healed.stderr
    (after,) = db.containers(engine)
    assert (after.state, after.name) == ("running", f"{db.project}-db-1")
    assert leftovers(engine, db) == []


def test_env_recover_brings_back_what_a_killed_replacement_has_lost(db: SmallStack, engine: Engine) -> None:
    (before,) = db.containers(engine)
    expected = made_of(engine, before)
    kept.keep(engine, before)
    engine.client.api.remove_container(before.id, force=True)

    recovered = db.invoke("env.recover", "--env", "dev")

    assert recovered.returncode == 0, recovered.stderr
    (after,) = db.containers(engine)
    assert made_of(engine, after) == expected
    assert leftovers(engine, db) == []


@pytest.mark.parametrize("how", ["user", "crash"])
def test_what_is_in_the_network_of_a_service_that_comes_back_is_in_it_as_before(
    db: SmallStack, engine: Engine, how: str
) -> None:
    sleeps = "image: python:3.11-slim-bookworm, command: [sleep, infinity], init: true, stop_grace_period: 0s"
    db.replace(
        "compose/dev.yaml",
        "volumes: {data: {}}",
        f'  inside: {{{sleeps}, network_mode: "service:db"}}\n'
        f"  app: {{{sleeps}, depends_on: {{db: {{condition: service_started, restart: true}}}}}}\n"
        "volumes: {data: {}}",
    )
    db.up()
    before = {one.service: one for one in db.containers(engine)}
    change(db, UNSTARTABLE[how])

    failed = db.invoke("env.up")

    assert failed.returncode in (3, 4), failed.stderr
    after = {one.service: one for one in db.containers(engine)}
    assert {name: (one.state, one.config_hash) for name, one in after.items()} == {
        name: ("running", one.config_hash) for name, one in before.items()
    }
    assert after["inside"].joins == (after["db"].id,)
    assert str(after["inside"].started_at) > str(after["db"].started_at)
    assert after["app"].id == before["app"].id
    assert str(after["app"].started_at) > str(after["db"].created_at)
    assert [name for name in leftovers(engine, db) if "before" in name] == []
