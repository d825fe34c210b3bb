"""env.up, ended by a signal at every step: nothing half done stays, and what served goes on serving."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import urllib.request

import pytest

from conche.engine.connection import Engine
from tests import warm
from tests.stacks import SmallStack

pytestmark = pytest.mark.engine

FRESH_STEPS = (
    "env.up --env dev",
    "create network",
    "build image",
    "building ",
    "create service web",
    "waiting until web is healthy",
)
KILLED_AT = ("create network", "create service web", "waiting until web is healthy")
"""Steps of a first start at which a run of all tests kills it; `nox -s long` kills it at each."""

CHANGES = {
    "env.up --env dev": signal.SIGKILL,
    "recreate service web": signal.SIGTERM,
    "trying the new web": signal.SIGTERM,
    "replacing web": signal.SIGKILL,
    "waiting until web is healthy": signal.SIGTERM,
}
"""Steps of a change, with the signal that a run of all tests sends at it; `nox -s long` sends each."""


def interrupt_at(stack: SmallStack, step: str, number: signal.Signals) -> tuple[int, str]:
    """Run env.up and send it a signal as soon as it says that this step begins; its exit code and what it said."""
    said = []
    with warm.Popen[str](
        stack.argv("env.up"),
        cwd=stack.folder,
        env=stack.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            said.append(line)
            if line.startswith(step):
                process.send_signal(number)
                break
        else:
            pytest.fail(f"{step!r} was never said: {said}")
        rest, errors = process.communicate(timeout=300)
    return process.returncode, "".join(said) + errors + rest


def page(stack: SmallStack) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{stack.port}/") as answer:
        text: str = answer.read().decode()
        return text


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.long), signal.SIGTERM])
@pytest.mark.parametrize("step", FRESH_STEPS)
def test_an_interrupted_first_start_leaves_nothing(
    small: SmallStack, engine: Engine, step: str, number: signal.Signals
) -> None:
    if step.startswith("waiting"):
        small.behave("slow")

    code, said = interrupt_at(small, step, number)

    assert code == 128 + number
    assert "Traceback" not in said
    assert small.containers(engine) == ()
    assert f"{small.name}-outside" not in {network["Name"] for network in engine.client.api.networks()}


@pytest.mark.parametrize(
    "step", [step if step in KILLED_AT else pytest.param(step, marks=pytest.mark.long) for step in FRESH_STEPS]
)
def test_a_killed_first_start_is_healed_by_the_next_one(small: SmallStack, engine: Engine, step: str) -> None:
    code, _ = interrupt_at(small, step, signal.SIGKILL)

    healed = small.invoke("env.up")

    assert code == -signal.SIGKILL
    assert healed.returncode == 0, healed.stderr
    assert page(small) == "one"
    assert [(c.service, c.state) for c in small.containers(engine)] == [("web", "running")]


@pytest.mark.parametrize(
    ("step", "number"),
    [
        pytest.param(step, number, marks=[] if CHANGES[step] == number else pytest.mark.long)
        for step in CHANGES
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
    ],
)
def test_an_interrupted_change_leaves_a_service_that_works(
    small: SmallStack, engine: Engine, step: str, number: signal.Signals
) -> None:
    small.up()
    small.replace("compose/dev.yaml", "SETTING: ${SETTING:-none}", "SETTING: another")

    if step.startswith("waiting"):
        small.behave("slow")

    code, said = interrupt_at(small, step, number)
    healed = small.invoke("env.up")

    assert code == (-number if number == signal.SIGKILL else 128 + number)
    assert "Traceback" not in said
    assert healed.returncode == 0, healed.stderr
    assert page(small) == "one"
    assert [(c.service, c.state, c.project) for c in small.containers(engine)] == [("web", "running", small.project)]


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.long), signal.SIGTERM])
@pytest.mark.parametrize("step", list(CHANGES)[:3])
def test_a_change_interrupted_before_it_replaces_leaves_the_old_container_serving(
    small: SmallStack, engine: Engine, step: str, number: signal.Signals
) -> None:
    small.up()
    before = [(c.id, c.started_at) for c in small.containers(engine)]
    small.replace("compose/dev.yaml", "SETTING: ${SETTING:-none}", "SETTING: another")

    interrupt_at(small, step, number)

    assert [(c.id, c.started_at) for c in small.containers(engine)] == before
    assert page(small) == "one"


def test_two_at_once_exclude_each_other(small: SmallStack) -> None:
    small.behave("hang")
    small.replace("compose/dev.yaml", "start_period: 3s", "start_period: 600s")
    first = warm.Popen[str](
        small.argv("env.up"), cwd=small.folder, env=small.environment(), stderr=subprocess.PIPE, text=True
    )
    assert first.stderr is not None
    next(line for line in first.stderr if line.startswith("waiting until"))

    second = small.invoke("env.up")

    first.send_signal(signal.SIGINT)
    first.communicate(timeout=300)
    assert second.returncode == 7
    assert f"{small.project} is locked by process {first.pid}: invoke env.up --env dev" in second.stderr


@pytest.mark.parametrize("ci", ["", "true"], ids=["live line", "plain lines"])
def test_a_terminal_that_is_closed_in_the_middle_keeps_nobody_from_unwinding(
    small: SmallStack, engine: Engine, ci: str
) -> None:
    small.up()
    small.replace("compose/dev.yaml", "SETTING: ${SETTING:-none}", "SETTING: another")
    small.behave("hang")
    before = [(c.id, c.started_at) for c in small.containers(engine)]
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        ["setsid", "--ctty", *small.argv("env.up")], cwd=small.folder, env=small.environment(CI=ci),
        stdin=theirs, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    said = b""
    while b"trying the new web" not in said:
        said += os.read(ours, 4096)

    os.close(ours)

    assert process.wait(300) == 128 + signal.SIGHUP
    assert [(c.id, c.started_at) for c in small.containers(engine)] == before
    assert page(small) == "one"
