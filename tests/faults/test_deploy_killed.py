"""env.deploy and env.rollback, ended by a signal at every step: the old or the new version serves throughout.

The steps are those of the plan, so a new one is tested as soon as there is one. Each command that is ended is followed
at once by the next, which has to settle what it finds; the last one is left to end by itself.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from conche.engine.connection import Engine
from tests.edged import EdgedStack, marked
from tests.load import Load
from tests.stacks import free_port

pytestmark = pytest.mark.engine

FINAL = ("commit", "stop", "remove")
"""Steps at which the new release serves for good: what is left of the old one goes with the next command."""


def dress(stack: EdgedStack, version: str) -> str:
    """Have the checkout's version with the template of the edge that goes with it; the image's reference."""
    stack.use_template(marked(version))
    return stack.version(version)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, engine: Engine, edge_image: str) -> Iterator[tuple[EdgedStack, ...]]:
    """Two stacks, each with three releases, for what can be tried side by side."""
    stacks = tuple(EdgedStack.create(tmp_path_factory.mktemp("killed") / "checkout", free_port()) for _ in range(2))

    def begin(stack: EdgedStack) -> None:
        for version in ("one", "two", "one"):
            done = stack.deploy(dress(stack, version))
            assert done.returncode == 0, done.stderr

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(begin, stacks))
    yield stacks
    for stack in stacks:
        stack.remove_all(engine)


class Chain:
    """One command on one stack, ended at each of its steps in turn."""

    def __init__(self, stack: EdgedStack, command: str, engine: Engine) -> None:
        self.stack, self.command, self.engine = stack, command, engine

    def words(self) -> tuple[str, ...]:
        if self.command == "env.rollback":
            return (self.command, "--env", "prod")
        version = "two" if self.stack.page()["version"] == "one" else "one"
        return (self.command, "--env", "prod", "--local", "--image", dress(self.stack, version))

    def steps(self) -> list[str]:
        planned = json.loads(self.stack.invoke(*self.words(), "--dry-run", "--json").stdout)["plan"]
        return [f"{step['action']} {step['subject'].split(' ')[0]}" for step in planned]

    def end_at(self, step: str, number: signal.Signals) -> int:
        """Run it until it says that this step begins; its exit code."""
        with self.stack.begin(*self.words()) as running:
            assert running.stderr is not None
            said = []
            for line in running.stderr:
                said.append(line)
                if line.startswith(step):
                    running.send_signal(number)
                    break
            rest = running.communicate()[1]
        assert said[-1].startswith(step), "".join(said)
        assert "Traceback" not in rest, rest
        return running.returncode

    def run(self, numbers: tuple[signal.Signals, ...]) -> list[str]:
        """End it at each step, with these signals in turn; the steps."""
        steps = self.steps()
        with Load(self.stack.port, rate=20) as users:
            for place, step in enumerate(steps):
                number = numbers[place % len(numbers)]
                code = self.end_at(step, number)
                assert code == (-number if number == signal.SIGKILL else 128 + number), step
                self.see_whole()
                if number != signal.SIGKILL and not step.startswith(FINAL):
                    assert self.stack.leftovers(self.engine) == [], step
            done = self.stack.invoke(*self.words())
            assert done.returncode == 0, done.stderr
            self.see_whole()
        assert users.failures == []
        assert self.stack.leftovers(self.engine) == []
        return steps

    def see_whole(self) -> None:
        """See that a version is served by the edge's configuration of its own release."""
        assert self.stack.mark() == self.stack.page()["version"]


class TemplateChain(Chain):
    """A release of which only the edge's template is another, ended at each of its steps."""

    def words(self) -> tuple[str, ...]:
        self.stack.use_template(marked("two" if self.stack.mark() == "one" else "one"))
        image = self.stack.reference(self.stack.page()["version"])
        return ("env.deploy", "--env", "prod", "--local", "--image", image)

    def see_whole(self) -> None:
        assert self.stack.mark() in ("one", "two")
        assert self.stack.history()["current"] is not None


@pytest.mark.parametrize(
    "numbers",
    [
        (signal.SIGKILL,),
        pytest.param((signal.SIGTERM, signal.SIGINT), marks=pytest.mark.long),
        pytest.param((signal.SIGINT, signal.SIGTERM), marks=pytest.mark.long),
    ],
    ids=["SIGKILL", "SIGTERM and SIGINT", "SIGINT and SIGTERM"],
)
def test_whatever_step_a_signal_meets_a_version_serves_and_the_next_command_goes_on(
    two: tuple[EdgedStack, EdgedStack], engine: Engine, numbers: tuple[signal.Signals, ...]
) -> None:
    chains = [Chain(two[0], "env.deploy", engine), Chain(two[1], "env.rollback", engine)]
    with ThreadPoolExecutor(2) as pool:
        steps = list(pool.map(lambda chain: chain.run(numbers), chains))

    assert steps[0] == steps[1]
    assert len(steps[0]) == 10
    for stack in two:
        results = {one["result"] for one in stack.history()["releases"]}
        assert results <= {"succeeded", "interrupted"}


@pytest.mark.parametrize(
    "numbers",
    [pytest.param((signal.SIGKILL,), marks=pytest.mark.long), (signal.SIGTERM, signal.SIGINT)],
    ids=["SIGKILL", "SIGTERM and SIGINT"],
)
def test_a_template_alone_is_switched_or_not_whatever_step_a_signal_meets(
    fresh: EdgedStack, engine: Engine, numbers: tuple[signal.Signals, ...]
) -> None:
    assert fresh.deploy(dress(fresh, "one")).returncode == 0
    before = {one.id for one in fresh.containers(engine)}

    steps = TemplateChain(fresh, "env.deploy", engine).run(numbers)

    assert [step.split()[0] for step in steps] == ["record", "place", "switch", "drain", "watch", "commit"]
    assert {one.id for one in fresh.containers(engine)} == before
    assert {one["result"] for one in fresh.history()["releases"]} <= {"succeeded", "interrupted"}


@pytest.mark.parametrize(
    ("step", "number"),
    [
        ("switch edge", signal.SIGKILL),
        *(
            pytest.param(step, number, marks=pytest.mark.long)
            for step, number in (
                ("switch edge", signal.SIGTERM), ("drain edge", signal.SIGKILL), ("drain edge", signal.SIGTERM),
                ("watch release", signal.SIGKILL), ("watch release", signal.SIGTERM),
            )
        ),
    ],
)  # fmt: skip
def test_a_template_that_answers_wrongly_does_not_outlive_a_release_that_is_ended(
    fresh: EdgedStack, step: str, number: signal.Signals
) -> None:
    assert fresh.deploy(dress(fresh, "one")).returncode == 0
    fresh.use_template(marked("one").replace("proxy_pass http://$upstream;", 'return 500 "wrong";'))
    words = ("env.deploy", "--env", "prod", "--local", "--image", fresh.reference("one"))
    with fresh.begin(*words) as running:
        assert running.stderr is not None
        next(line for line in running.stderr if line.startswith(step))
        running.send_signal(number)
        running.communicate()

    recovered = fresh.invoke("env.recover", "--env", "prod")

    assert recovered.returncode == 0, recovered.stderr
    assert (fresh.mark(), fresh.page()["version"]) == ("one", "one")
    assert fresh.history()["current"] == "r1"
    assert fresh.invoke("env.status", "--env", "prod").returncode == 0


@pytest.mark.parametrize(
    "step",
    [*(pytest.param(step, marks=pytest.mark.long) for step in ("record", "create service store", "start release")),
     "switch edge"],
)  # fmt: skip
def test_a_first_release_that_is_killed_is_settled_by_the_next(fresh: EdgedStack, engine: Engine, step: str) -> None:
    words = ("env.deploy", "--env", "prod", "--local", "--image", fresh.version("one"))
    with fresh.begin(*words) as running:
        assert running.stderr is not None
        next(line for line in running.stderr if line.startswith(step))
        running.kill()

    done = fresh.invoke(*words)

    assert done.returncode == 0, done.stderr
    assert fresh.page()["version"] == "one"
    assert fresh.leftovers(engine) == []


def test_recover_tells_what_it_will_do_and_takes_a_killed_release_back(two: tuple[EdgedStack, ...]) -> None:
    stack, _ = two
    before = stack.page()
    dress(stack, "late")
    words = ("env.deploy", "--env", "prod", "--local", "--image", stack.version("late", "slow"))
    with stack.begin(*words) as running:
        assert running.stderr is not None
        line = next(line for line in running.stderr if line.startswith("await release"))
        running.kill()
    release = line.split()[2]

    shown = stack.invoke("env.status", "--env", "prod")
    planned = json.loads(stack.invoke("env.recover", "--env", "prod", "--dry-run", "--json").stdout)["plan"]
    done = json.loads(stack.invoke("env.recover", "--env", "prod", "--json").stdout)
    again = stack.invoke("env.recover", "--env", "prod")

    assert f"{release} was interrupted. Next: invoke env.recover --env prod" in shown.stdout
    assert [(one["action"], one["subject"].split()[0]) for one in planned] == [
        ("revert", "release"), ("remove", "container"),
    ]  # fmt: skip
    assert (done["changed"], done["value"]["release"]) == (True, before["release"])
    assert "Nothing to recover." in again.stdout
    assert stack.page() == before
    assert stack.history()["releases"][0]["result"] == "interrupted"


def test_env_up_takes_a_killed_release_back_without_being_asked(fresh: EdgedStack, engine: Engine) -> None:
    assert fresh.deploy(fresh.version("one")).returncode == 0
    before = fresh.page()
    words = ("env.deploy", "--env", "prod", "--local", "--image", fresh.version("late", "slow"))
    with fresh.begin(*words) as running:
        assert running.stderr is not None
        next(line for line in running.stderr if line.startswith("await release"))
        running.kill()

    done = fresh.invoke("env.up", "--env", "prod")

    assert done.returncode == 0, done.stderr
    assert fresh.page() == before
    assert fresh.leftovers(engine) == []
    assert [one["result"] for one in fresh.history()["releases"]] == ["interrupted", "succeeded"]
    assert "was interrupted" not in fresh.invoke("env.status", "--env", "prod").stdout


def test_recover_finishes_a_release_that_serves_already(two: tuple[EdgedStack, ...], engine: Engine) -> None:
    stack, _ = two
    with stack.begin(*Chain(stack, "env.deploy", engine).words()) as running:
        assert running.stderr is not None
        line = next(line for line in running.stderr if line.startswith("drain edge"))
        running.kill()
    assert line
    serves = stack.page()

    done = json.loads(stack.invoke("env.recover", "--env", "prod", "--json").stdout)

    assert done["value"]["release"] == serves["release"]
    assert stack.page() == serves
    assert stack.history()["current"] == serves["release"]
    assert stack.leftovers(engine) == []
