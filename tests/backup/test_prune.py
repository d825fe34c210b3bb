"""Retention: pure decisions, and the refusals of the task."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conche.backup import manifest
from conche.backup.history import history
from conche.backup.manifest import Artifact, ComponentRecord, Manifest, Omission
from conche.backup.prune import RetentionCandidate, clock_problem, decide, decide_future
from conche.backup.target import Target, name_of
from conche.stack import Backup, BackupKind, Retention
from tests.backup.checkouts import Checkout

NOW = datetime(2026, 3, 29, 12, tzinfo=UTC)
RULES: dict[BackupKind, Retention] = {
    "daily": Retention(days=7, least=7),
    "weekly": Retention(days=28, least=4),
    "monthly": Retention(days=90, least=3),
}


def daily(days: float, *, verified: bool = True, kind: BackupKind = "daily") -> RetentionCandidate:
    return RetentionCandidate(f"{kind}-{days}", kind, NOW - timedelta(days=days), verified)


def going(backups: list[RetentionCandidate]) -> list[str]:
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


def held(size: int, *, entries: int = 3, harm: str = "", driver: str = "archive") -> ComponentRecord:
    """A component of which one archive holds so much."""
    file = Artifact(path="data/data.tar.gz", size=size // 2, sha256="", members=entries, content=size, pieces="1")
    omissions = (Omission(name="data", why=harm, harmful=True),) if harm else ()
    return ComponentRecord(driver=driver, artifacts=(file,), left_out=omissions)


def below(component: str, record: ComponentRecord) -> ComponentRecord:
    """The same record, as one of this component."""
    files = [one.model_copy(update={"path": f"{component}/{Path(one.path).name}"}) for one in record.artifacts]
    return record.model_copy(update={"artifacts": tuple(files)})


GONE = ComponentRecord(driver="archive", absent=True, left_out=(Omission(name="x", why="is gone", harmful=True),))
FULL, EMPTY, TORN = held(300_000), held(0, entries=1), held(300_000, harm="is half there")
Day = tuple[float, dict[str, ComponentRecord]]
WEEK = tuple(range(7))


def candidates(
    days: Iterable[Day], kind: BackupKind = "daily", *, unverified: Iterable[float] = ()
) -> list[RetentionCandidate]:
    """Backups of so many days ago, judged as retention judges those in a target."""
    made = {}
    for age, records in days:
        complete = not any(record.harm for record in records.values())
        created = NOW - timedelta(days=age)
        manifest_of_it = Manifest(
            name="of-the-test",
            stack="s",
            kind=kind,
            created=created,
            seconds=0,
            complete=complete,
            components={component: below(component, record) for component, record in records.items()},
        )
        made[f"{kind}-{age}"] = manifest_of_it
    told = history(made.items())
    return [
        RetentionCandidate(
            name, kind, one.created, float(name.split("-", 1)[1]) not in unverified, told.complete(name, one),
            told.sound[name],
        )
        for name, one in made.items()
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("backups", "gone"),
    [
        pytest.param(candidates((age, {"db": FULL}) for age in range(10)), ["daily-8", "daily-9"], id="all complete"),
        pytest.param(
            candidates([*((age, {"db": GONE, "conf": FULL}) for age in WEEK), (8, {"db": FULL, "conf": FULL})]),
            [],
            id="seven degraded do not push out the complete one",
        ),
        pytest.param(
            candidates([*((age, {"db": EMPTY}) for age in WEEK), (8, {"db": FULL})]),
            [],
            id="nor do seven empty ones that an older version took for complete",
        ),
        pytest.param(
            candidates([*((age, {"conf": FULL}) for age in WEEK), (9, {"db": FULL}), (8, {"db": FULL})]),
            ["daily-9"],
            id="the newest one of a component that stack.yaml has no more",
        ),
        pytest.param(
            candidates([*((age, {"db": FULL, "new": FULL}) for age in WEEK), (9, {"db": FULL})]),
            ["daily-9"],
            id="a component that came later",
        ),
        pytest.param(
            candidates([*((age, {"a": FULL}) for age in WEEK), (8, {"b": TORN}), (9, {"b": FULL}), (10, {"b": FULL})]),
            ["daily-8", "daily-10"],
            id="a torn state of a component is not its newest good one",
        ),
        pytest.param(
            candidates([*((age, {"a": FULL}) for age in WEEK), (8, {"b": FULL}), (9, {"b": FULL})], unverified=[8]),
            ["daily-8"],
            id="nor is one that was found damaged, while an older one is good",
        ),
        pytest.param(
            candidates([*((age, {"a": FULL}) for age in WEEK), (8, {"b": FULL})], unverified=[8]),
            [],
            id="the only one stays though nobody verified it",
        ),
        pytest.param(
            [
                *candidates((age, {"a": FULL}) for age in WEEK),
                *candidates(((age, {"a": FULL, "b": FULL}) for age in (30, 37)), "weekly"),
                *candidates(((100, {"a": FULL}), (131, {"c": FULL})), "monthly"),
                *candidates(((8, {"a": FULL, "b": FULL}),)),
            ],
            [],
            id="three kinds, none of which has enough",
        ),
        pytest.param(
            candidates([(-300, {"a": FULL}), *((age, {"a": FULL}) for age in range(6)), (9, {"a": FULL})]),
            [],
            id="one from the future is not one of seven",
        ),
        pytest.param(
            candidates([(-300, {"a": FULL}), *((age, {"a": FULL}) for age in WEEK), (9, {"a": FULL})]),
            ["daily-9"],
            id="nor does it keep others from going",
        ),
        pytest.param(
            candidates([(-300, {"b": FULL}), *((age, {"a": FULL}) for age in WEEK), (9, {"b": FULL})]),
            [],
            id="nor is it the newest good one of anything",
        ),
        pytest.param(candidates([(0, {"a": FULL}), (20, {"a": FULL}), (40, {"a": FULL})]), [], id="gaps"),
    ],
)
def test_histories(backups: list[RetentionCandidate], gone: list[str]) -> None:
    assert going(backups) == gone


@pytest.mark.parametrize(
    ("backups", "gone"),
    [
        (candidates([(-300, {"a": FULL}), (0, {"a": FULL})]), ["daily--300"]),
        (candidates([(-300, {"a": FULL}), (0, {"b": FULL})]), []),
        (candidates([(-300, {"a": FULL}), (-200, {"a": FULL})]), ["daily--200"]),
        (candidates([(-300, {"a": FULL}), (0, {"a": FULL})], unverified=[0]), []),
        (candidates([(0, {"a": FULL}), (9, {"a": FULL})]), []),
    ],
    ids=["today's has it", "today's lacks something", "none of today", "today's is damaged", "none from the future"],
)
def test_one_from_the_future_goes_when_nothing_is_lost_with_it(
    backups: list[RetentionCandidate], gone: list[str]
) -> None:
    assert [one.name for one in decide_future(backups, NOW) if not one.keep] == gone


@given(
    st.lists(
        st.tuples(
            st.floats(-50, 400),
            st.booleans(),
            st.booleans(),
            st.sampled_from(["daily", "weekly", "monthly"]),
            st.frozensets(st.sampled_from("abc")),
        ),
        max_size=40,
    )
)
def test_whatever_goes_enough_newer_verified_ones_stay(
    drawn: list[tuple[float, bool, bool, BackupKind, frozenset[str]]],
) -> None:
    backups = [
        RetentionCandidate(str(number), kind, NOW - timedelta(days=age), verified, complete, sound)
        for number, (age, verified, complete, kind, sound) in enumerate(drawn)
    ]

    decisions = {one.name: one.keep for one in decide(backups, RULES, NOW)}

    for part in "abc":
        good = [one for one in backups if one.is_past(NOW) and one.verified and part in one.sound]
        assert not good or decisions[max(good, key=lambda one: one.created).name]
    for kind, rule in RULES.items():
        kept = [
            one
            for one in backups
            if one.kind == kind and one.verified and one.complete and one.is_past(NOW) and decisions[one.name]
        ]
        gone = [one for one in backups if one.kind == kind and not decisions[one.name]]
        assert not gone or len(kept) >= rule.least
        assert all(NOW - one.created > timedelta(days=rule.days) for one in gone)
    again = [one for one in backups if decisions[one.name]]
    assert all(one.keep for one in decide(again, RULES, NOW))


@pytest.mark.parametrize(
    ("ages", "problem"),
    [
        ((-1.0, 3), ""),
        ((-1.0, 46), "46 days old"),
        ((46,), "46 days old"),
        ((400, 401), "400 days old"),
        ((0, 400), ""),
        ((), ""),
    ],
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


@pytest.mark.process
def test_one_from_the_future_is_said_counts_for_nothing_and_can_be_removed(checkout: Checkout) -> None:
    ahead = aged(checkout.create_backup(), -200)
    assert checkout.invoke("backup.verify").returncode == 0

    late = checkout.invoke("backup.status")
    kept = checkout.json("backup.prune", "--future")
    made = checkout.invoke("backup.create", "--json")
    listed = checkout.json("backup.list")
    latest = checkout.json("backup.show", "latest")
    planned = checkout.json("backup.prune", "--future", "--dry-run")
    removed = checkout.invoke("backup.prune", "--future")

    assert (late.returncode, "LATE" in late.stdout, f"{ahead.name} is from the future" in late.stdout) == (
        1,
        True,
        True,
    )
    assert ([one["keep"] for one in kept], [one["keep"] for one in planned]) == ([True], [False])
    assert [f"{ahead.name} is from the future" in words for words in json.loads(made.stdout)["warnings"]] == [True]
    assert [(one["name"], one["future"]) for one in listed] == [(ahead.name, True), (latest["name"], False)]
    assert (removed.returncode, f"deleting {ahead.name}" in removed.stderr) == (0, True)
    assert [path.name for path in checkout.backups()] == [latest["name"]]
    assert checkout.invoke("backup.status").returncode == 0


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
