"""env.up gives services what their configs and secrets hold now, though Compose alone would not."""

from __future__ import annotations

from typing import Any

import pytest

from conche.engine.connection import Engine
from tests.stacks import SmallStack

pytestmark = pytest.mark.engine

SECTION = """\
configs:
  rules: {file: ../rules.conf}
  level: {content: "level=${LEVEL:-none}\\n"}
secrets:
  tok: {environment: TOK}
  plain: {file: ../plain.txt}
volumes:
  kept:"""


@pytest.fixture
def stack(small: SmallStack) -> SmallStack:
    small.replace(
        "compose/dev.yaml",
        "    stop_grace_period: 1s\n",
        "    stop_grace_period: 1s\n    secrets: [tok, plain]\n"
        "    configs: [{source: rules, target: /etc/rules.conf}, level]\n",
    )
    small.replace("compose/dev.yaml", "volumes:\n  kept:", SECTION)
    small.write("rules.conf", "one")
    small.write("plain.txt", "one")
    small.write(".env", "TOK=one\nLEVEL=one\n")
    return small


def inside(stack: SmallStack, engine: Engine, path: str) -> str:
    [web] = stack.containers(engine)
    output: Any = engine.client.containers.get(web.id).exec_run(["cat", path]).output
    return str(output.decode())


@pytest.mark.parametrize(
    ("changed", "path", "value", "cause"),
    [
        ("rules.conf", "/etc/rules.conf", "two", "config rules"),
        pytest.param("LEVEL", "/level", "level=two\n", "config level", marks=pytest.mark.long),
        ("TOK", "/run/secrets/tok", "two", "secret tok"),
        pytest.param("plain.txt", "/run/secrets/plain", "two", "secret plain", marks=pytest.mark.long),
    ],
)
def test_another_content_is_another_container(
    stack: SmallStack, engine: Engine, changed: str, path: str, value: str, cause: str
) -> None:
    stack.write("later", "two")  # older than the container that it shall reach
    stack.up()
    again = stack.invoke("env.up")
    before = [one.id for one in stack.containers(engine)]
    if changed.isupper():
        stack.replace(".env", f"{changed}=one", f"{changed}=two")
    else:
        (stack.folder / "later").replace(stack.folder / changed)

    seen = stack.invoke("env.status", "--env", "dev")
    planned = stack.json("env.up", "--dry-run")["plan"]
    done = stack.invoke("env.up")

    assert "Nothing to do" in again.stdout, again.stdout
    assert seen.returncode == 1
    assert f"drift: {cause} changed" in seen.stdout
    assert [(step["action"], step["cause"]) for step in planned] == [("recreate", f"{cause} changed")]
    assert done.returncode == 0, done.stderr
    assert inside(stack, engine, path) == value
    assert [one.id for one in stack.containers(engine)] != before
    assert stack.invoke("env.status", "--env", "dev").returncode == 0
    assert "Nothing to do" in stack.invoke("env.up").stdout


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [("../rules.conf", "../gone.conf", "file-missing"), ("environment: TOK", "environment: GONE", "variable-missing")],
)
def test_what_is_not_there_is_said_before_anything_is_started(
    stack: SmallStack, engine: Engine, old: str, new: str, code: str
) -> None:
    stack.replace("compose/dev.yaml", old, new)

    refused = stack.invoke("env.up")

    assert refused.returncode == 2
    assert f"error [{code}]" in refused.stderr
    assert stack.containers(engine) == ()
