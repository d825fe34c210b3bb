"""What runs can be looked at, entered and taken down, whatever has become of its files."""

from __future__ import annotations

import json

import pytest

from conche.engine import containers, networks
from conche.engine.connection import Engine
from tests.stacks import SmallStack

pytestmark = pytest.mark.engine

SLEEPS = "image: python:3.11-slim-bookworm, init: true, stop_grace_period: 0s"

NEEDS = f"""\
services:
  web:
    {{{SLEEPS}, command: [sh, -c, "echo it says this; exec sleep infinity"], volumes: ["kept:/kept"],
    environment: {{KEY: "${{WEB_KEY:?write it into .env}}"}}}}
volumes: {{kept: {{}}}}
"""


@pytest.fixture
def running(small: SmallStack) -> SmallStack:
    small.write("compose/dev.yaml", NEEDS)
    done = small.invoke("env.up", WEB_KEY="1")
    assert done.returncode == 0, done.stderr
    return small


@pytest.mark.parametrize("what", ["a variable is missing", "a file is broken", "a file is gone"])
def test_what_runs_needs_no_valid_file(what: str, running: SmallStack, engine: Engine) -> None:
    if what == "a file is broken":
        running.write("compose/dev.yaml", "services: [")
    elif what == "a file is gone":
        (running.folder / "compose/dev.yaml").unlink()

    status = running.invoke("env.status", "--env", "dev", "--json")
    logs = running.invoke("env.logs")
    inside = running.invoke("env.exec", "--service", "web", "--", "echo", "from inside")
    joined = running.json("env.networks")
    planned = running.json("env.down", "--volumes", "--dry-run")
    down = running.invoke("env.down", "--volumes", "--yes")

    assert status.returncode == 1
    [seen] = json.loads(status.stdout)["value"]
    assert [(one["service"], one["state"]) for one in seen["services"]] == [("web", "running")]
    assert seen["unread"]
    assert (logs.returncode, "it says this" in logs.stdout) == (0, True), logs.stderr
    assert (inside.returncode, inside.stdout) == (0, "from inside\n"), inside.stderr
    assert [one["network"] for one in joined["value"]] == [f"{running.project}_default"]
    assert [step["subject"] for step in planned["plan"]] == ["service web", f"volume {running.project}_kept"]
    assert down.returncode == 0, down.stderr
    assert "warning:" in down.stderr
    assert containers.of_project(engine, running.project) == ()
    assert networks.made_by(engine, running.project) == networks.Made((), ())


def test_what_is_down_is_told_by_what_is_wrong_with_its_files(small: SmallStack) -> None:
    small.write("compose/dev.yaml", NEEDS)

    ends = {task: small.invoke(task) for task in ("env.down", "env.networks")}

    assert {task: done.returncode for task, done in ends.items()} == dict.fromkeys(ends, 2)
    assert all("WEB_KEY" in done.stderr for done in ends.values())


def test_a_service_that_never_was_is_told_with_those_there_are(running: SmallStack) -> None:
    done = running.invoke("env.exec", "--service", "wbe", "--", "true", WEB_KEY="1")

    assert (done.returncode, "Did you mean 'web'?" in done.stderr) == (6, True), done.stderr
