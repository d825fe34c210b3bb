"""env.up, ended while Compose starts several services: what ran goes on, and the next one finishes what was begun."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator

import pytest

from conche.engine.connection import Engine
from conche.engine.containers import Container
from tests import warm
from tests.env.test_together import in_waves
from tests.stacks import SmallStack, free_port

pytestmark = pytest.mark.engine

STAYS = "a1"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, engine: Engine, base_image: str) -> Iterator[SmallStack]:
    """A stack of two waves that is up; the tests take some of it away."""
    made = SmallStack.create(tmp_path_factory.mktemp("together") / "checkout", port=free_port())
    in_waves(made)
    made.up()
    yield made
    made.remove_all(engine)


def lose(stack: SmallStack, engine: Engine) -> dict[str, Container]:
    """Take away all services but one; what runs on."""
    for one in stack.containers(engine):
        if one.service != STAYS:
            engine.client.api.remove_container(one.id, force=True)
    return there(stack, engine)


def there(stack: SmallStack, engine: Engine) -> dict[str, Container]:
    return {one.service: one for one in stack.containers(engine)}


def run_on(stack: SmallStack, engine: Engine, before: dict[str, Container]) -> bool:
    """Whether what ran has run on, in the same container and without a restart."""
    now = there(stack, engine)[STAYS]
    return (now.id, now.started_at) == (before[STAYS].id, before[STAYS].started_at)


def see_healed(stack: SmallStack, engine: Engine, before: dict[str, Container]) -> None:
    """See that one more env.up finishes everything, touches nothing that ran, and leaves nothing to do."""
    healed = stack.invoke("env.up")

    assert healed.returncode == 0, healed.stderr
    assert {name: one.state for name, one in there(stack, engine).items()} == dict.fromkeys(
        ("a1", "a2", "a3", "b1", "b2", "b3"), "running"
    )
    assert run_on(stack, engine, before)
    assert stack.json("env.up")["plan"] == []


@pytest.mark.parametrize(
    "words",
    [*(pytest.param(words, marks=pytest.mark.long) for words in ("--no-deps a2 a3", "--dry-run")), "sh b1 b2 b3"],
)
def test_killed_with_compose_just_started_it_is_finished_by_the_next(
    stack: SmallStack, engine: Engine, words: str
) -> None:
    before = lose(stack, engine)

    ended = warm.run(
        stack.argv("env.up"), cwd=stack.folder, env=stack.environment(), capture_output=True, timeout=300,
        before="tests.faults.steps:kill_after_start", told=words,
    )  # fmt: skip

    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert run_on(stack, engine, before)
    see_healed(stack, engine, before)


@pytest.mark.parametrize(
    ("service", "action"),
    [
        ("a2", "create"),
        pytest.param("a2", "start", marks=pytest.mark.long),
        pytest.param("b2", "create", marks=pytest.mark.long),
        ("b2", "start"),
    ],
)
@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.long)])
def test_ended_in_the_middle_of_a_call_it_leaves_what_ran_and_is_finished_by_the_next(
    stack: SmallStack, engine: Engine, number: signal.Signals, service: str, action: str
) -> None:
    before = lose(stack, engine)
    label = {"label": [f"com.docker.compose.project={stack.project}", f"com.docker.compose.service={service}"]}
    events = engine.client.api.events(decode=True, filters={"type": "container", **label})
    process = warm.Popen[str](
        stack.argv("env.up"), cwd=stack.folder, env=stack.environment(), stderr=subprocess.PIPE, text=True
    )

    next(event for event in events if event["Action"] == action)
    process.send_signal(number)
    events.close()
    said = process.communicate(timeout=300)[1]

    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number), said
    assert run_on(stack, engine, before)
    if number != signal.SIGKILL:
        assert set(there(stack, engine)) == {STAYS}
    see_healed(stack, engine, before)
