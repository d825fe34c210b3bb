"""The edge's configuration is part of a release: deployed, compared, brought back, and never left to answer wrongly."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from conche.engine.connection import Engine
from tests.edged import BUILT_IN, EdgedStack, marked
from tests.load import Load

pytestmark = [pytest.mark.engine, pytest.mark.in_order]

WRONG = BUILT_IN.replace("proxy_pass http://$upstream;", 'return 500 "wrong";')

DEAD = "pid /tmp/nginx.pid;\nevents { }\nhttp { server { listen @listen@; location / { return 500; } } }\n"
"""Valid, and answers nothing rightly: neither users nor at its private entries."""


@pytest.fixture(scope="module")
def stack(edged: EdgedStack) -> EdgedStack:
    """Version one serves, by a template of the checkout."""
    edged.use_template(marked("one"))
    done = edged.deploy(edged.version("one"))
    assert done.returncode == 0, done.stderr
    return edged


@pytest.fixture
def users(stack: EdgedStack, engine: Engine) -> Iterator[Load]:
    """Users of it, who notice nothing."""
    with Load(stack.port) as load:
        load.until(lambda seen: len(seen.answers) > 5)
        yield load
    assert load.failures == []
    assert stack.leftovers(engine) == []


def ids(stack: EdgedStack, engine: Engine) -> set[str]:
    return {one.id for one in stack.containers(engine)}


def status(stack: EdgedStack) -> tuple[int, Any, str]:
    """Exit code, value, and what people read."""
    done = stack.invoke("env.status", "--env", "prod", "--json")
    (value,) = json.loads(done.stdout)["value"]
    return done.returncode, value, stack.invoke("env.status", "--env", "prod").stdout


def break_edge(stack: EdgedStack, engine: Engine, content: str) -> None:
    """Give the edge that runs another configuration, past every command."""
    filled = content.replace("@listen@", "8000").replace("@trusted@", "").replace("@trusts@", "")
    folder = "/etc/conche/edge/current"
    script = f"printf %s '{filled}' > {folder}/nginx.conf && nginx -s reload -c {folder}/nginx.conf"
    api = engine.client.api
    made = api.exec_create(f"{stack.project}-edge-1", ["sh", "-c", script])["Id"]
    api.exec_start(made)
    assert api.exec_inspect(made)["ExitCode"] == 0
    while stack.mark() != "500":
        """It is taken up a moment later; the test's own time-out ends this."""


def test_a_changed_template_alone_is_a_release_that_recreates_nothing(
    stack: EdgedStack, users: Load, engine: Engine
) -> None:
    before, serves = ids(stack, engine), stack.page()["release"]
    image = stack.reference(stack.page()["version"])
    stack.use_template(marked("two"))

    code, value, said = status(stack)
    planned = json.loads(stack.deploy(image, "--dry-run", "--json").stdout)["plan"]
    document = json.loads(stack.deploy(image, "--json").stdout)
    again = stack.deploy(image)

    assert (code, value["changed_since_release"]) == (0, ["edge"])
    assert f"changed since {serves}: edge" in said
    assert [step["action"] for step in planned] == ["record", "place", "switch", "drain", "watch", "commit"]
    assert stack.mark() == "two"
    assert ids(stack, engine) == before
    release = document["value"]["release"]
    assert (stack.history()["current"], stack.page()["release"]) == (release, serves)
    assert f"Nothing to do: {release} is what was asked for." in again.stdout
    assert status(stack)[1]["changed_since_release"] == []


def test_a_rollback_brings_the_template_of_its_release_back(stack: EdgedStack, users: Load) -> None:
    image = stack.reference(stack.page()["version"])
    stack.use_template(marked("three"))
    assert stack.deploy(image).returncode == 0
    three = stack.history()["current"]
    stack.use_template(marked("four"))
    assert stack.deploy(stack.version("five"), "--force").returncode == 0
    assert stack.mark() == "four"

    done = stack.rollback("--to", three)

    assert done.returncode == 0, done.stderr
    assert stack.mark() == "three"
    assert status(stack)[1]["changed_since_release"] == ["edge"]


@pytest.mark.parametrize(
    ("alone", "wrong"),
    [
        (True, WRONG),
        pytest.param(True, DEAD, marks=pytest.mark.long),
        pytest.param(False, WRONG, marks=pytest.mark.long),
        (False, DEAD),
    ],
    ids=[f"{version}-{answer}" for version in ("alone", "with another version") for answer in ("wrong", "dead")],
)
def test_a_template_that_answers_wrongly_goes_with_its_release(
    stack: EdgedStack, engine: Engine, wrong: str, alone: bool
) -> None:
    stack.use_template(marked("good"))
    serves = stack.page()
    assert stack.deploy(stack.reference(serves["version"])).returncode == 0
    serves, current, before = stack.page(), stack.history()["current"], ids(stack, engine)
    stack.use_template(wrong)

    image = stack.reference(serves["version"]) if alone else stack.version("six")
    document = json.loads(stack.deploy(image, "--json").stdout)

    assert document["error"]["exit_code"] == 4, document["error"]
    assert (stack.mark(), stack.page()) == ("good", serves)
    assert (stack.history()["current"], ids(stack, engine)) == (current, before)
    assert status(stack)[0] == 0
    stack.use_template(marked("good"))
    assert "Nothing to do" in stack.deploy(stack.reference(serves["version"])).stdout


@pytest.mark.parametrize(
    ("healing", "content"),
    [
        ("env.recover", DEAD),
        ("env.deploy", DEAD),
        ("env.up", DEAD.replace("} } }", "} } server { listen 127.0.0.1:8082; } }")),
    ],
    ids=["env.recover", "env.deploy", "env.up"],
)
def test_an_edge_that_answers_wrongly_is_seen_and_healed(
    stack: EdgedStack, engine: Engine, healing: str, content: str
) -> None:
    before, template = stack.page(), stack.mark()
    break_edge(stack, engine, content)

    code, value, said = status(stack)
    words = ("--local", "--image", stack.reference(before["version"])) if healing == "env.deploy" else ()
    healed = stack.invoke(healing, "--env", "prod", *words)

    assert (code, value["healthy"]) == (1, False)
    assert "its users get 500" in said
    assert "invoke env.recover --env prod" in said
    assert healed.returncode == 0, healed.stderr
    assert (stack.page(), stack.mark()) == (before, template)
    assert status(stack)[0] == 0
    assert "Nothing to recover." in stack.invoke("env.recover", "--env", "prod").stdout


def test_maintenance_keeps_the_template_of_the_release(stack: EdgedStack) -> None:
    before = stack.mark()
    stack.use_template(marked("later"))

    on = stack.invoke("env.maintenance", "--env", "prod", "--on")
    shown = status(stack)
    off = stack.invoke("env.maintenance", "--env", "prod", "--off")

    assert (on.returncode, off.returncode) == (0, 0)
    assert shown[0] == 0
    assert stack.mark() == before
