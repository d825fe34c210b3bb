"""env.down names everything that it ends, before it ends it."""

from __future__ import annotations

import subprocess

import pytest

from conche.engine import containers, networks
from conche.engine.connection import Engine
from tests.stacks import SmallStack

pytestmark = pytest.mark.engine

TWO = """\
services:
  web: {image: python:3.11-slim-bookworm, command: [sleep, infinity], init: true, stop_grace_period: 1s}
  old: {image: python:3.11-slim-bookworm, command: [sleep, infinity], init: true, stop_grace_period: 1s}
"""


def test_the_plan_names_what_is_no_service_and_since_when_it_runs(small: SmallStack, engine: Engine) -> None:
    small.write("compose/dev.yaml", TWO)
    small.up()
    run = ["docker", "compose", "--file", "compose/dev.yaml", "--project-name", small.project, "run", "--detach"]
    subprocess.run([*run, "web", "sleep", "600"], cwd=small.folder, check=True, capture_output=True)
    small.write("compose/dev.yaml", TWO.rpartition("  old:")[0])
    (once,) = containers.one_off(engine, small.project)
    (old,) = [one for one in small.containers(engine) if one.service == "old"]

    status = small.json("env.status", "--env", "dev")["value"][0]
    planned = small.json("env.down", "--dry-run")["plan"]
    there = [one.id for one in containers.one_off(engine, small.project)]
    done = small.json("env.down")

    assert (there, status["oneoff"]) == ([once.id], [once.name])
    assert [(step["action"], step["subject"], step["cause"]) for step in planned] == [
        ("stop", "service web", "asked for"),
        ("remove", f"container {old.name}", f"its service old is in no Compose file, {running(old)}"),
        ("remove", f"container {once.name}", f"made by docker compose run of web, {running(once)}"),
    ]
    assert done["plan"] == planned
    assert small.containers(engine) + containers.one_off(engine, small.project) == ()


def running(one: containers.Container) -> str:
    assert one.started_at is not None
    return f"running since {one.started_at:%Y-%m-%d %H:%M:%S} UTC"


def test_what_somebody_has_begun_by_hand_is_taken_down_though_no_service_runs(
    small: SmallStack, engine: Engine
) -> None:
    small.write("compose/dev.yaml", TWO)
    run = ["docker", "compose", "--file", "compose/dev.yaml", "--project-name", small.project, "run", "--detach"]
    subprocess.run([*run, "web", "sleep", "600"], cwd=small.folder, check=True, capture_output=True)

    done = small.json("env.down")

    assert [step["action"] for step in done["plan"]] == ["remove"]
    assert containers.one_off(engine, small.project) == ()


def test_a_network_of_one_that_never_came_up_goes_too(small: SmallStack, engine: Engine) -> None:
    small.write("compose/dev.yaml", TWO)
    labels = {"com.docker.compose.project": small.project, "com.docker.compose.network": "default"}
    engine.client.api.create_network(f"{small.project}_default", labels=labels)

    done = small.json("env.down")

    assert [(step["action"], step["subject"]) for step in done["plan"]] == [
        ("remove", f"network {small.project}_default")
    ]
    assert networks.made_by(engine, small.project).networks == ()
