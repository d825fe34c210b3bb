"""The locks that commands take: a table, and an order in which no two commands can wait for each other."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conche import locking
from conche.backup import holding, locks
from conche.backup.create import in_order
from conche.backup.site import Site
from conche.backup.target import Target
from conche.command import Invocation
from conche.engine import containers, volumes
from conche.errors import Locked, Unreachable
from conche.locking import EVERY, LEFT, TAKEN, Lock, Takes, ordered
from conche.output import Output
from conche.stack import Stack, load
from tests.architecture.source import tasks
from tests.stacks import ROOT

ENVIRONMENTS = ("dev", "git", "prod")

OPTIONS = {name: {option.name for option in task.get_arguments(ignore_unknown_help=True)} for name, task in tasks()}


def test_the_table_has_every_command_that_can_show_a_plan_and_no_other_name() -> None:
    changing = {name for name, options in OPTIONS.items() if "dry_run" in options}

    assert changing - TAKEN.keys() == set()
    assert TAKEN.keys() - OPTIONS.keys() == set()


def test_a_command_that_locks_environments_can_be_told_to_wait() -> None:
    assert {name for name, options in OPTIONS.items() if "lock_wait" in options} == {
        name for name, takes in TAKEN.items() if Lock.ENVIRONMENT in takes.locks
    }


def test_the_reference_shows_the_table() -> None:
    reference = (ROOT / "docs/reference/tasks.md").read_text()
    rows = [row for row in reference.splitlines() if row.startswith("| `")]

    for takes in set(TAKEN.values()):
        names = ", ".join(f"`{name}`" for name, taken in TAKEN.items() if taken == takes)
        others = ", ".join(f"the {one}" for one in takes.locks if one is not Lock.ENVIRONMENT)
        assert f"| {names} | {takes.environments or 'none'} | {others or 'nothing'} |" in rows


def sequences(takes: Takes) -> Iterator[list[str]]:
    """Yield every sequence of locks that a command with this set may take, with three environments."""
    some = [*itertools.permutations(ENVIRONMENTS, 1), *itertools.permutations(ENVIRONMENTS, 2)]
    chosen: list[tuple[str, ...]] = [ENVIRONMENTS] if takes == EVERY else [*some]
    others = [str(one) for one in takes.locks if one is not Lock.ENVIRONMENT]
    for names in chosen if Lock.ENVIRONMENT in takes.locks else [()]:
        held = {Lock.ENVIRONMENT: ordered(names)}
        yield [name for one in takes.locks for name in held.get(one, [str(one)])]
    if takes == LEFT:
        yield others


def can_wait_for_each_other(one: Sequence[str], other: Sequence[str]) -> bool:
    """Return whether each may hold what the other waits for."""
    return any(
        one.index(first) < one.index(second) and other.index(second) < other.index(first)
        for first, second in itertools.permutations(set(one) & set(other), 2)
    )


def test_no_two_commands_can_wait_for_each_other() -> None:
    taken = [sequence for takes in set(TAKEN.values()) for sequence in sequences(takes)]

    assert [pair for pair in itertools.product(taken, taken) if can_wait_for_each_other(*pair)] == []
    assert ["dev", "prod", "backup target", "secrets file"] in taken


def test_another_order_would_be_seen() -> None:
    assert can_wait_for_each_other(["dev", "prod"], ["prod", "dev"])
    assert can_wait_for_each_other(["backup target", "dev"], ["dev", "git", "backup target"])


@pytest.mark.parametrize("takes", sorted(set(TAKEN.values()), key=str))
def test_each_set_is_in_the_order_of_all_locks(takes: Takes) -> None:
    assert list(takes.locks) == [one for one in Lock if one in takes.locks]


STACK = """\
name: factory
registry: localhost:5000
environments:
  prod: {compose: [compose.yaml], engine: ENGINE}
  dev: {compose: [compose.yaml], engine: ENGINE}
  git: {compose: [compose.yaml], engine: ENGINE}
backup:
  components:
    models: {driver: volume, volume: models, environment: prod}
    trial: {driver: volume, volume: trial, environment: dev, consistency: live}
"""


@pytest.fixture
def call(tmp_path: Path) -> Invocation:
    (tmp_path / "compose.yaml").write_text("services: {web: {image: x}}\n")
    (tmp_path / "stack.yaml").write_text(STACK.replace("ENGINE", "unix:///nonexistent/engine.sock"))
    return Invocation(tmp_path, Output("backup.create"))


@pytest.fixture
def site(call: Invocation) -> Site:
    stack: Stack = load(call.root)
    assert stack.backup is not None
    return Site(call.root, stack, stack.backup, Target(call.root / "target", "factory"), lambda _: None)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The locks that are taken and released, in order, with all environments free."""
    seen: list[str] = []

    @contextmanager
    def recorded(_: Any, __: Any, name: str, **told: Any) -> Iterator[None]:
        seen.append(name)
        yield
        seen.append(f"-{name}")

    target = Target.locked

    @contextmanager
    def recorded_target(self: Target, purpose: str, **options: Any) -> Iterator[int]:
        with target(self, purpose, **options) as held:
            seen.append("target")
            yield held
        seen.append("-target")

    monkeypatch.setattr(locking, "locked", recorded)
    monkeypatch.setattr(Target, "locked", recorded_target)
    return seen


def test_a_backup_command_takes_environments_by_name_and_then_the_target(
    call: Invocation, site: Site, taken: list[str]
) -> None:
    with locks.locked(call, site, "a test", ["prod", "dev"]) as held:
        held.keep(["prod"])

    assert taken == ["dev", "prod", "target", "-dev", "-target", "-prod"]


def leave_waiting(site: Site) -> None:
    """Write the note of a backup that was killed while a container of production was paused."""
    site.target.store.mkdir(parents=True)
    engine = site.stack.environments["prod"].engine
    note = {"engine": engine, "volumes": ["models"], "ids": ["0123"], "stopped": []}
    (site.target.store / holding.NOTE).write_text(json.dumps(note))


def test_an_engine_that_does_not_answer_is_asked_once_for_what_was_left(
    call: Invocation, site: Site, taken: list[str]
) -> None:
    """Settling then says what waits there, and what to type."""
    leave_waiting(site)
    said: list[str] = []
    lost: dict[str, Unreachable] = {}

    with locks.locked(call, replace(site, say=said.append), "a test", lost=lost):
        taken.append("work")

    assert lost.keys() == {"prod"}
    assert taken == ["target", "-target", "target", "work", "-target"]
    assert "docker unpause 0123" in "\n".join(said)


def test_what_a_killed_command_has_left_is_settled_under_the_lock_of_its_environment(
    call: Invocation, site: Site, taken: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the target's holder sees what is left, and releases the target first, so nobody waits against the order."""
    leave_waiting(site)
    monkeypatch.setattr(volumes, "using", lambda *_: ())
    monkeypatch.setattr(containers, "read", lambda *_: None)

    def settle(_: Site) -> None:
        taken.append("settled")
        (site.target.store / holding.NOTE).unlink()

    monkeypatch.setattr(holding, "recover", settle)

    with locks.locked(call, site, "a test", ["dev"]):
        taken.append("work")

    assert taken == [
        *("dev", "target", "-target", "-dev"),
        *("dev", "prod", "target", "settled", "-prod", "work", "-target", "-dev"),
    ]


def test_an_engine_that_does_not_answer_costs_a_backup_its_component_and_nothing_else(
    call: Invocation, site: Site, taken: list[str]
) -> None:
    needs = locks.resting(site)

    with locks.locked(call, site, "a test", needs.all, lost=needs.lost):
        assert taken == ["target"]

    assert needs.of == {"models": {"prod"}}
    needs.require("trial")
    with pytest.raises(Unreachable):
        needs.require("models")


def test_a_backup_holds_no_other_environment_while_it_waits_for_a_pipeline(call: Invocation) -> None:
    """A pipeline's deployment waits for the backup, so the backup must not hold what it needs while waiting for it."""
    declared = (call.root / "stack.yaml").read_text() + (
        "    forge: {driver: volume, volume: forge, environment: git, idle: {runner: [idle]}}\n"
        "    tailnet: {driver: volume, volume: tailnet, environment: prod}\n"
    )
    (call.root / "stack.yaml").write_text(
        declared.replace("    models:", "    code: {driver: archive, paths: [src]}\n    models:")
    )
    section = call.stack.backup
    assert section is not None

    assert in_order(section.components, {"models", "forge", "tailnet"}) == [
        "models",
        "tailnet",
        "forge",
        "code",
        "trial",
    ]


def test_a_dry_run_takes_nothing(call: Invocation, site: Site, taken: list[str]) -> None:
    call.dry_run = True

    with locks.locked(call, site, "a test", ["dev"]):
        pass
    with locking.every(call, lambda _: pytest.fail("nothing is asked")):
        pass

    assert taken == []


def test_environments_of_one_command_are_let_go_when_one_cannot_be_had(
    call: Invocation, site: Site, taken: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    free = locking.locked

    def refusing(call: Any, engine: Any, name: str, **told: Any) -> Any:
        if name == "prod":
            raise Locked("environment-locked", f"{name} is locked: {told['purpose']}, after {told['wait']:g} s")
        return free(call, engine, name, **told)

    monkeypatch.setattr(locking, "locked", refusing)

    with (
        pytest.raises(Locked, match="prod is locked: a test, after 7 s"),
        locks.locked(call, site, "a test", ["prod", "dev"], patience=7.0),
    ):
        pytest.fail("it was refused")
    call.lock_wait = 3.0
    assert taken == ["dev", "-dev"]


def test_what_the_user_says_counts_more_than_what_a_command_does_by_itself(
    call: Invocation, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []

    @contextmanager
    def patient(*_: Any, wait: float, **__: Any) -> Iterator[None]:
        seen.append(wait)
        yield

    monkeypatch.setattr(locking, "locked", patient)

    for call.lock_wait in (None, 0.0, 3.0):
        with locks.locked(call, site, "a test", ["prod"]):
            pass

    assert seen == [locks.PATIENCE, 0.0, 3.0]
