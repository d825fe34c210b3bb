"""Services that env.up starts together, on the real engine."""

from __future__ import annotations

import subprocess

import pytest

from conche.engine.connection import Engine
from tests.stacks import SmallStack

pytestmark = pytest.mark.engine

SERVICE = """\
  {name}:
    image: python:3.11-slim-bookworm
    command: [sleep, infinity]
    init: true
    stop_grace_period: 1s
    healthcheck: {{test: [CMD, "true"]}}
    depends_on: {needs}
"""


def in_waves(stack: SmallStack, **more: str) -> None:
    """Write a Compose file of two waves of three services, with lines of their own for some."""
    needs = {"a": "{}", "b": "{a1: {condition: service_healthy}, a2: {condition: service_started}}"}
    names = [f"{wave}{number}" for wave in needs for number in (1, 2, 3)]
    bodies = [SERVICE.format(name=name, needs=needs[name[0]]) + more.get(name, "") for name in names]
    stack.write("compose/dev.yaml", "services:\n" + "".join(bodies))


def test_what_starts_together_is_what_docker_compose_would_have_made(small: SmallStack, engine: Engine) -> None:
    in_waves(small)

    done = small.invoke("env.up")

    assert done.returncode == 0, done.stderr
    before = {one.id for one in small.containers(engine)}
    assert len(before) == 6
    assert small.json("env.up")["plan"] == []
    assert small.invoke("env.status").returncode == 0
    plain = ["docker", "compose", "--file", "compose/dev.yaml", "--project-name", small.project, "up", "--detach"]
    subprocess.run(plain, cwd=small.folder, check=True, capture_output=True)
    assert {one.id for one in small.containers(engine)} == before


@pytest.mark.parametrize(
    ("wrong", "said"),
    [("    runtime: nosuch\n", "nosuch"), ("    user: nosuchuser\n", "unable to find user nosuchuser")],
    ids=["cannot be made", "cannot be started"],
)
def test_one_that_the_engine_refuses_is_named_and_its_neighbours_are_up(
    small: SmallStack, engine: Engine, wrong: str, said: str
) -> None:
    in_waves(small, b2=wrong)

    done = small.invoke("env.up")

    assert done.returncode == 3, done.stderr
    assert "dev is up, but for b2." in done.stderr
    (reason,) = [line for line in done.stderr.splitlines() if "not up: b2: Compose could not start b2: " in line]
    assert said in reason
    states = {one.service: one.state for one in small.containers(engine)}
    assert states == dict.fromkeys(("a1", "a2", "a3", "b1", "b3"), "running")


def test_what_has_stopped_starts_together_as_the_containers_they_are(small: SmallStack, engine: Engine) -> None:
    in_waves(small)
    small.up()
    before = {one.id: one.started_at for one in small.containers(engine)}
    for identity in before:
        engine.client.api.stop(identity, timeout=1)

    done = small.invoke("env.up")

    assert done.returncode == 0, done.stderr
    after = {one.id: one.started_at for one in small.containers(engine) if one.state == "running"}
    assert after.keys() == before.keys()
    assert all(after[one] != before[one] for one in before)


def test_what_is_restarted_together_are_the_containers_they_are(small: SmallStack, engine: Engine) -> None:
    in_waves(small)
    small.up()
    before = {one.id: one.started_at for one in small.containers(engine)}

    done = small.invoke("env.restart")

    assert done.returncode == 0, done.stderr
    after = {one.id: one.started_at for one in small.containers(engine) if one.state == "running"}
    assert after.keys() == before.keys()
    assert all(after[one] != before[one] for one in before)
