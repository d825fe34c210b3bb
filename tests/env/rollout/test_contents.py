"""What configs and secrets hold is part of a release: deployed, brought back, and free of the checkout."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import Any

import pytest

from conche.engine.connection import Engine
from conche.engine.state import State
from tests.edged import EdgedStack

pytestmark = pytest.mark.engine

PLACES = {"rules": "/etc/rules.conf", "level": "/level", "extra": "/etc/extra.conf"}

SECTION = """\
configs:
  rules: {file: ../rules.conf}
  level: {content: "level=${LEVEL:-1} $$HOME\\n"}
  extra: {environment: EXTRA}
secrets:
  tok: {environment: TOK}
volumes:
  edge:"""


def dotenv(stack: EdgedStack, **values: str) -> None:
    given = {"TOK": "the first password", "LEVEL": "1", "EXTRA": "more", **values}
    stack.write(".env", "".join(f"{name}={value}\n" for name, value in given.items()))


@pytest.fixture(scope="module")
def stack(edged: EdgedStack) -> EdgedStack:
    """Version one serves, with configs of each kind and a secret from a variable."""
    edged.replace(
        "compose/prod.yaml",
        "    stop_grace_period: 3s\n",
        "    stop_grace_period: 3s\n    secrets: [tok]\n    configs:\n"
        "      - {source: rules, target: /etc/rules.conf}\n      - level\n"
        "      - {source: extra, target: /etc/extra.conf}\n",
    )
    edged.replace("compose/prod.yaml", "volumes:\n  edge:", SECTION)
    edged.write("rules.conf", "one, and $5\n")
    dotenv(edged)
    done = edged.deploy(edged.version("one"))
    assert done.returncode == 0, done.stderr
    return edged


def inside(stack: EdgedStack, engine: Engine) -> dict[str, str]:
    """What the container that serves has in its configs and its secret."""
    [web] = [one for one in stack.containers(engine) if one.service == "web"]
    container = engine.client.containers.get(web.id)
    found = {}
    for key, path in {**PLACES, "tok": "/run/secrets/tok"}.items():
        read = container.exec_run(["cat", path])
        assert read.exit_code == 0, read.output
        output: Any = read.output
        found[key] = output.decode()
    return found


FIRST = {"rules": "one, and $5\n", "level": "level=1 $HOME\n", "extra": "more", "tok": "the first password"}


def deployed(stack: EdgedStack, *words: str) -> Any:
    done = stack.deploy(stack.reference(stack.page()["version"]), "--json", *words)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["value"]


@pytest.mark.parametrize(
    ("changed", "cause"),
    [
        pytest.param("rules", "config rules", marks=pytest.mark.long),
        pytest.param("level", "config level", marks=pytest.mark.long),
        pytest.param("extra", "config extra", marks=pytest.mark.long),
        ("tok", "secret tok"),
    ],
)
def test_a_changed_content_alone_is_a_release_and_a_rollback_brings_it_back(
    stack: EdgedStack, engine: Engine, base_image: str, changed: str, cause: str
) -> None:
    before, had = stack.history()["current"], inside(stack, engine)
    variables = {"level": "LEVEL", "extra": "EXTRA", "tok": "TOK"}
    value = f"another value of {changed}"
    if changed in variables:
        dotenv(stack, **{variables[changed]: value})
    else:
        stack.write("rules.conf", value)

    (status,) = stack.json("env.status", "--env", "prod")["value"]
    done = deployed(stack)
    has = inside(stack, engine)
    stack.write("rules.conf", FIRST["rules"])
    dotenv(stack)
    back = stack.rollback("--to", before)

    assert status["changed_since_release"] == ["web"]
    [web] = [one for one in done["changes"] if one["service"] == "web"]
    assert (web["strategy"], web["cause"]) == ("beside", f"{cause} changed")
    assert {key for key in has if has[key] != had[key]} == {changed}
    assert value in has[changed]
    assert back.returncode == 0, back.stderr
    assert inside(stack, engine) == had
    kept = State(engine, stack.project, [base_image]).read()
    assert not [name for name, content in kept.items() if value.encode() in content]


def test_the_same_again_is_nothing_to_do(stack: EdgedStack) -> None:
    done = stack.deploy(stack.reference(stack.page()["version"]))

    assert "Nothing to do" in done.stdout, done.stdout + done.stderr
    (status,) = stack.json("env.status", "--env", "prod")["value"]
    assert (status["healthy"], status["changed_since_release"]) == (True, [])
    assert "Nothing to do" in stack.invoke("env.up", "--env", "prod").stdout


def test_a_release_needs_no_checkout_once_it_serves(stack: EdgedStack, engine: Engine) -> None:
    clone = replace(stack, folder=stack.folder.parent / "clone")
    shutil.copytree(stack.folder, clone.folder)
    clone.write("rules.conf", "from the clone")
    assert clone.deploy(clone.version("two")).returncode == 0
    shutil.rmtree(clone.folder)
    [web] = [one for one in stack.containers(engine) if one.service == "web"]

    engine.client.api.restart(web.id, timeout=3)

    assert inside(stack, engine)["rules"] == "from the clone"
    mounts = engine.client.api.inspect_container(web.id)["Mounts"]
    assert mounts == []
    assert stack.rollback().returncode == 0
    assert inside(stack, engine)["rules"] == FIRST["rules"]


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("../rules.conf", "../gone.conf", "file-missing"),
        ("environment: EXTRA", "environment: GONE", "variable-missing"),
    ],
)
def test_what_cannot_be_read_is_refused_before_anything_is_changed(
    stack: EdgedStack, old: str, new: str, code: str
) -> None:
    before = stack.history()["releases"]
    stack.replace("compose/prod.yaml", old, new)
    refused = stack.deploy(stack.version("three"))
    stack.replace("compose/prod.yaml", new, old)

    assert refused.returncode == 2
    assert f"error [{code}]" in refused.stderr
    assert stack.history()["releases"] == before
