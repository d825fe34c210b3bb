"""Retention: pure decisions, and the refusals of the task."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conche.backup import manifest
from conche.backup.prune import Candidate, clock_problem, decide
from conche.backup.target import Target, name_of
from conche.stack import Backup, Kind, Retention
from tests.backup.checkouts import Checkout

NOW = datetime(2026, 3, 29, 12, tzinfo=UTC)
RULES: dict[Kind, Retention] = {
    "daily": Retention(days=7, least=7),
    "weekly": Retention(days=28, least=4),
    "monthly": Retention(days=90, least=3),
}


def daily(days: float, *, verified: bool = True, kind: Kind = "daily") -> Candidate:
    return Candidate(f"{kind}-{days}", kind, NOW - timedelta(days=days), verified)


def going(backups: list[Candidate]) -> list[str]:
    return [one.name for one in decide(backups, RULES, NOW) if not one.keep]


def test_the_documented_retention_is_the_default() -> None:
    section = Backup.model_validate({"components": {"a": {"driver": "secrets"}}})

    assert {kind: section.kept(kind) for kind in RULES} == RULES


def test_seven_newer_verified_ones_let_an_old_one_go() -> None:
    assert going([daily(age) for age in range(10)]) == ["daily-8", "daily-9"]


def test_after_ten_missed_days_none_goes() -> None:
    assert going([daily(age) for age in (0, *range(11, 18))]) == ["daily-17"]
    assert going([daily(age) for age in range(11, 18)]) == []


def test_damaged_ones_do_not_count() -> None:
    assert going([daily(age, verified=age > 7) for age in range(12)]) == []


def test_kinds_do_not_count_for_each_other() -> None:
    assert going([daily(age) for age in range(9)] + [daily(200, kind="monthly")]) == ["daily-8"]


@given(
    st.lists(st.tuples(st.floats(0, 400), st.booleans(), st.sampled_from(["daily", "weekly", "monthly"])), max_size=40)
)
def test_whatever_goes_enough_newer_verified_ones_stay(drawn: list[tuple[float, bool, Kind]]) -> None:
    backups = [
        Candidate(str(number), kind, NOW - timedelta(days=age), verified)
        for number, (age, verified, kind) in enumerate(drawn)
    ]

    decisions = {one.name: one.keep for one in decide(backups, RULES, NOW)}

    for kind, rule in RULES.items():
        kept = [one for one in backups if one.kind == kind and one.verified and decisions[one.name]]
        gone = [one for one in backups if one.kind == kind and not decisions[one.name]]
        assert not gone or len(kept) >= rule.least
        assert all(NOW - one.created > timedelta(days=rule.days) for one in gone)
    again = [one for one in backups if decisions[one.name]]
    assert all(one.keep for one in decide(again, RULES, NOW))


@pytest.mark.parametrize(
    ("ages", "problem"),
    [((-1.0, 3), "future"), ((46,), "46 days old"), ((400, 401), "400 days old"), ((0, 400), ""), ((), "")],
)
def test_a_clock_that_cannot_be_trusted_is_seen(ages: tuple[float, ...], problem: str) -> None:
    found = clock_problem([daily(age) for age in ages], NOW)

    assert (problem in found) if problem else found == ""


def aged(folder: Path, days: float) -> Path:
    """A real backup as if it had been made days ago: renamed, and its manifest written anew."""
    known = manifest.read(folder)
    when = known.created - timedelta(days=days)
    name = name_of("factory", known.kind, when)
    changed = known.model_copy(update={"created": when, "name": name})
    (folder / manifest.FILE).write_bytes(changed.render())
    return folder.rename(folder.with_name(name))


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    made = Checkout.create(tmp_path)
    made.replace("stack.yaml", "backup:\n", "backup:\n  retention: {daily: {days: 7, least: 2}}\n")
    return made


@pytest.mark.process
def test_a_create_prunes_what_retention_does_not_keep(checkout: Checkout) -> None:
    old = [aged(checkout.create_backup(), days) for days in (40, 30, 20, 10)]
    (checkout.target / "daily/notes.txt").write_text("mine")
    assert checkout.invoke("backup.verify").returncode == 0
    planned = checkout.json("backup.prune", "--dry-run")

    newest = checkout.create_backup()

    assert [one["name"] for one in planned if not one["keep"]] == [old[1].name, old[0].name]
    left = sorted(path.name for path in (checkout.target / "daily").iterdir())
    assert left == sorted([old[3].name, newest.name, "notes.txt"])


@pytest.mark.process
@pytest.mark.parametrize("days", [-366, 46])
def test_where_the_clock_jumped_nothing_goes(checkout: Checkout, days: int) -> None:
    for age in (500, 400, 300, 200):
        aged(checkout.create_backup(), age)
    aged(checkout.create_backup(), days)
    assert checkout.invoke("backup.verify").returncode == 0
    before = checkout.backups()

    refused = checkout.invoke("backup.prune")
    made = checkout.invoke("backup.create", "--json")

    assert (refused.returncode, "clock-not-trusted" in refused.stderr) == (2, True)
    assert made.returncode == 0
    assert any("nothing was pruned" in words for words in json.loads(made.stdout)["warnings"])
    assert len(checkout.backups()) == len(before) + 1


@pytest.fixture
def in_madrid(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """There the clock is put on and back; afterwards the process is where it was."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Europe/Madrid")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("in_madrid")
def test_in_the_night_in_which_two_o_clock_comes_twice_names_differ(tmp_path: Path) -> None:
    first = datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    second = first + timedelta(hours=1)
    target = Target(tmp_path, "factory")
    (tmp_path / "daily" / name_of("factory", "daily", first)).mkdir(parents=True)

    first_name, second_name = "factory_daily_20261025_023000", "factory_daily_20261025_023000-2"
    assert name_of("factory", "daily", first) == name_of("factory", "daily", second)
    assert target.free_name("daily", second) == "factory_daily_20261025_023000-2"
    (tmp_path / "daily/factory_daily_20261025_023000-2").mkdir()
    assert [one.name for one in target.backups()] == [second_name, first_name]


@pytest.mark.usefixtures("in_madrid")
def test_the_night_in_which_two_o_clock_does_not_exist_keeps_its_order(tmp_path: Path) -> None:
    moments = [datetime(2026, 3, 29, hour, 30, tzinfo=UTC) for hour in (0, 1)]
    names = [name_of("factory", "daily", moment) for moment in moments]
    for name in names:
        (tmp_path / "daily" / name).mkdir(parents=True)

    assert names == ["factory_daily_20260329_013000", "factory_daily_20260329_033000"]
    assert [one.named for one in Target(tmp_path, "factory").backups()] == moments[::-1]


@pytest.mark.process
def test_where_all_are_damaged_or_only_one_is_left_none_goes(checkout: Checkout) -> None:
    for age in (40, 30, 20, 10):
        aged(checkout.create_backup(), age)
    before = checkout.backups()
    for folder in before:
        (folder / "models/prophet_1.pkl").unlink()
        (folder / "models/prophet_1.pkl").write_text("model 0ne")
    verified = checkout.invoke("backup.verify")
    pruned = checkout.invoke("backup.prune")

    assert (verified.returncode, pruned.returncode) == (1, 0), pruned.stderr
    assert checkout.backups() == before
    only = aged(checkout.create_backup(), 9)
    for folder in before:
        shutil.rmtree(folder)
    assert checkout.invoke("backup.prune").returncode == 0
    assert checkout.backups() == [only]
