"""A secret that no release keeps: a key that works once, with which a container of a release is made much later."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from conche.engine.connection import Engine
from conche.engine.containers import Container
from tests import warm
from tests.edged import EdgedStack
from tests.stacks import SmallStack

pytestmark = pytest.mark.engine

SIDE = """\
  side:
    image: python:3.11-slim-bookworm
    command: ["sh", "-c", "cat /run/secrets/key; echo; exec sleep infinity"]
    init: true
    stop_grace_period: 1s
    networks: [inside]
    secrets: [{source: side_key, target: key}]
    healthcheck: {test: [CMD, "true"], interval: 15s}
    restart: unless-stopped
secrets:
  side_key: {file: ../docker/secrets/side_key.txt}
"""

DECLARED = """\
secrets:
  declared:
    side_key: {outputs: [file], environments: [prod], required: false, sealed: false}
"""


@pytest.fixture
def keyed(fresh: EdgedStack) -> EdgedStack:
    """A release with a service beside the edge that has such a key."""
    fresh.replace("stack.yaml", "environments:\n", f"{DECLARED}environments:\n")
    fresh.replace("compose/prod.yaml", "volumes:\n  edge:", f"{SIDE}volumes:\n  edge:")
    assert fresh.invoke("secrets.init").returncode == 0
    put(fresh, "the first")
    done = fresh.deploy(fresh.version("one"))
    assert done.returncode == 0, done.stderr
    return fresh


def put(stack: SmallStack, value: str) -> None:
    argv = stack.argv("secrets.set", "side_key")
    warm.run(argv, cwd=stack.folder, env=stack.environment(), input=value, text=True, check=True, capture_output=True)


def test_a_rollback_makes_containers_with_the_present_value_or_none(keyed: EdgedStack, engine: Engine) -> None:
    put(keyed, "the second")
    done = keyed.deploy(keyed.version("two"))
    assert done.returncode == 0, done.stderr
    subprocess.run(["docker", "rm", "--force", side(keyed, engine).id], check=True, capture_output=True)
    secrets = (keyed.folder / "secrets.enc.yaml").read_bytes()
    keyed.write("secrets.enc.yaml", "damaged: yes\n")

    refused = keyed.rollback()

    assert refused.returncode == 8, refused.stderr
    assert [one.service for one in keyed.containers(engine) if one.service == "side"] == []
    (keyed.folder / "secrets.enc.yaml").write_bytes(secrets)
    gone_back = keyed.rollback()
    assert gone_back.returncode == 0, gone_back.stderr
    assert said(keyed, engine) == "the second\n"


def side(stack: SmallStack, engine: Engine) -> Container:
    [found] = [one for one in stack.containers(engine) if one.service == "side"]
    return found


def ids(stack: SmallStack, engine: Engine) -> dict[str, tuple[str, Any]]:
    """Service -> its container, and when that was started."""
    return {str(one.service): (one.id, one.started_at) for one in stack.containers(engine)}


def said(stack: SmallStack, engine: Engine) -> str:
    """What the side has read as it started."""
    return subprocess.run(
        ["docker", "logs", ids(stack, engine)["side"][0]], capture_output=True, text=True, check=True
    ).stdout


def test_a_container_of_a_release_is_made_with_the_present_value_of_its_key_and_anew_for_another(
    keyed: EdgedStack, engine: Engine
) -> None:
    before = ids(keyed, engine)
    put(keyed, "a second")

    changed = keyed.json("env.up", "--env", "prod")
    again = keyed.json("env.up", "--env", "prod")

    assert [(one["action"], one["subject"], one["cause"]) for one in changed["plan"]] == [
        ("recreate", "service side", "secret side_key changed")
    ]
    assert again["plan"] == []
    assert said(keyed, engine) == "a second\n"
    after = ids(keyed, engine)
    assert {name: one for name, one in after.items() if name != "side"} == {
        name: one for name, one in before.items() if name != "side"
    }

    put(keyed, "a third")
    engine.client.api.remove_container(after["side"][0], force=True)
    lost = keyed.json("env.up", "--env", "prod")

    assert [(one["action"], one["subject"]) for one in lost["plan"]] == [("create", "service side")]
    assert said(keyed, engine) == "a third\n"
    assert keyed.invoke("env.status", "--env", "prod").returncode == 0
    assert keyed.json("env.deploy", "--env", "prod", "--local", "--image", keyed.reference("one"))["plan"] == []


def test_without_an_edge_too_a_rendered_key_reaches_its_container_alone(small: SmallStack, engine: Engine) -> None:
    sleeper = "image: python:3.11-slim-bookworm, init: true, stop_grace_period: 0s, command: [sleep, infinity]"
    reads = f"{sleeper.partition(', command')[0]}, secrets: [{{source: side_key, target: key}}]"
    command = 'command: [sh, -c, "cat /run/secrets/key; echo; exec sleep infinity"]'
    secret = "secrets: {side_key: {file: ../docker/secrets/side_key.txt}}"
    small.write("compose/dev.yaml", f"services: {{web: {{{sleeper}}}, side: {{{reads}, {command}}}}}\n{secret}\n")
    small.replace("stack.yaml", "environments:\n", f"{DECLARED.replace('prod', 'dev')}environments:\n")
    assert small.invoke("secrets.init").returncode == 0
    put(small, "the first")
    deployed = small.invoke("env.deploy", "--env", "dev", "--local")
    assert deployed.returncode == 0, deployed.stderr
    before = ids(small, engine)
    put(small, "the second")
    assert small.invoke("secrets.render").returncode == 0

    changed = small.json("env.up", "--env", "dev")

    assert [(one["action"], one["subject"]) for one in changed["plan"]] == [("recreate", "service side")]
    assert said(small, engine) == "the second\n"
    assert ids(small, engine)["web"] == before["web"]
    assert small.json("env.up", "--env", "dev")["plan"] == []
    assert small.invoke("env.status", "--env", "dev").returncode == 0

    put(small, "the third")
    again = small.json("env.up", "--env", "dev")

    assert [(one["action"], one["subject"]) for one in again["plan"]] == [("recreate", "service side")]
    assert said(small, engine) == "the third\n"
