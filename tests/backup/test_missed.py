"""Runs that were missed are told, and made up for once: by cron and by systemd alike."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from conche import formats
from conche.backup import missed
from conche.backup.missed import Started, catch_up, forget, said
from conche.backup.schedule import ScheduleEntry, entries, log_of, runs
from conche.backup.site import Site
from conche.backup.target import Target
from conche.command import Invocation
from conche.errors import Interrupted, Refused
from conche.files import lock
from conche.output import Output
from conche.stack import parse
from tests.backup.checkouts import Checkout

NOW = datetime(2026, 3, 3, 9, 7, tzinfo=UTC)
DUE = datetime(2026, 3, 3, 2, 0, tzinfo=UTC)
DAILY = ScheduleEntry("daily", "0 2 * * *", ())

STACK = """\
name: choc-factory
registry: localhost:5000
backup: {components: {a: {driver: secrets}}, schedule: {weekly: "0 3 1 1 *", monthly: "0 3 1 1 *"}}
environments: {dev: {compose: [x.yaml]}}
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    stack = parse(STACK)
    assert stack.backup is not None
    told: list[str] = []
    made = Site(tmp_path / "checkout", stack, stack.backup, Target(tmp_path / "target", "choc-factory"), told.append)
    made.root.mkdir()
    return made


def note(site: Site, **fields: object) -> Path:
    """Have the daily entry last run so."""
    [daily, *_] = runs(site)
    file = missed._file(site, daily)
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {"when": daily.when, "started": datetime.now(UTC).isoformat(), "instead_of": None, **fields}
    file.write_text(json.dumps(formats.SCHEDULED.stamped(content)))
    return file


def ago(**time: float) -> str:
    return (datetime.now(UTC) - timedelta(**time)).isoformat()


@pytest.mark.parametrize(
    ("started", "when", "now", "due"),
    [
        pytest.param(DUE, DAILY.when, NOW, None, id="on time"),
        pytest.param(DUE - timedelta(days=1), DAILY.when, NOW, DUE, id="the machine was off last night"),
        pytest.param(DUE - timedelta(days=9), DAILY.when, NOW, DUE, id="it was off for nine nights: made up for once"),
        pytest.param(DUE - timedelta(days=1), DAILY.when, DUE + timedelta(minutes=9), None, id="it may start yet"),
        pytest.param(DUE - timedelta(days=1), DAILY.when, DUE + timedelta(minutes=10), DUE, id="it will not any more"),
        pytest.param(
            DUE - timedelta(days=2),
            DAILY.when,
            DUE + timedelta(minutes=9),
            DUE - timedelta(days=1),
            id="the one of today may start yet, and that of yesterday will not any more",
        ),
        pytest.param(DUE - timedelta(days=1), "0 3 * * *", NOW, None, id="it had another schedule then"),
        pytest.param(NOW + timedelta(days=400), DAILY.when, NOW, None, id="noted by a clock that was wrong"),
    ],
)
def test_what_was_missed(started: datetime, when: str, now: datetime, due: datetime | None) -> None:
    assert Started(when, started).misses(DAILY, now) == due


def test_a_run_that_makes_up_for_another_says_so_in_its_log_and_the_status(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[str] = []
    [daily, *_] = runs(site)
    note(site, started=(DUE - timedelta(days=1)).isoformat())

    missed._note(Site(site.root, site.stack, site.section, site.target, told.append), daily, NOW)

    assert told == ["The run of Tue 2026-03-03 02:00 was missed; this one makes up for it."]
    assert said(site, NOW) == (
        ["daily: the run of Tue 2026-03-03 02:00 was missed; it was made up for on Tue 2026-03-03 09:07"],
        [],
    )
    assert missed._read(site, daily) == Started(daily.when, NOW, DUE, ended=False)
    assert capsys.readouterr().out == ""


def test_what_is_not_made_up_for_is_a_warning_of_the_status(site: Site) -> None:
    note(site, started=(DUE - timedelta(days=1)).isoformat())

    told, [warning] = said(site, NOW)

    assert told == []
    assert warning.startswith("daily: the run of Tue 2026-03-03 02:00 was missed and is not made up for: invoke ")


ENDS: dict[str, tuple[BaseException | None, str | None]] = {
    "well": (None, None),
    "with an error": (Refused("target-full", "full"), None),
    "by a signal": (Interrupted(signal.SIGTERM), "interrupted"),
}


@pytest.mark.parametrize("how", ENDS)
def test_a_run_that_is_interrupted_is_owed_once_it_does_not_run_any_more(site: Site, how: str) -> None:
    error, owed = ENDS[how]
    [daily, *_] = runs(site)
    with contextlib.suppress(Refused, Interrupted), missed._noted(site, log_of(site, daily)):
        assert list(missed._owed(site)) == []
        if error:
            raise error

    found = [said for _, (_, said) in missed._owed(site)]

    assert found == ([owed] if owed else [])
    assert [owed in warning for warning in said(site, datetime.now(UTC))[1] if owed] == [True] * len(found)


def test_a_run_that_makes_up_for_an_interrupted_one_is_not_made_up_for_itself(site: Site) -> None:
    told: list[str] = []
    site = replace(site, say=told.append)
    [daily, *_] = runs(site)
    for _ in range(2):
        with contextlib.suppress(Interrupted), missed._noted(site, log_of(site, daily)):
            raise Interrupted(signal.SIGTERM)

    assert list(missed._owed(site)) == []
    assert [("interrupted" in line, "makes up for it" in line) for line in told] == [(True, True)]


def test_a_run_that_outlasts_the_start_of_the_next_one_does_not_make_that_a_missed_one(site: Site) -> None:
    [daily, *_] = runs(site)
    with missed._noted(site, log_of(site, daily)):
        later = missed._note(site, daily, datetime.now(UTC) + timedelta(seconds=1))

    assert missed._last(site, daily) == later


def test_another_log_is_no_run_of_an_entry(site: Site) -> None:
    file = note(site, started="2026-03-02T02:00:00+00:00")
    before = file.read_bytes()

    with missed._noted(site, site.root / "mine.log"):
        pass

    assert file.read_bytes() == before


DAMAGED = [b"", b"{", b"null", b"[]", b"\xff", b"{}", b'{"when": 1, "started": 2, "instead_of": null}',
           b'{"when": "0 2 * * *", "started": "2026-03-02T02:00:00", "instead_of": null}', b"[" * 100_000]  # fmt: skip


@pytest.mark.parametrize("content", DAMAGED, ids=lambda content: repr(content[:40]))
def test_a_note_that_cannot_be_read_is_told_and_counted_anew(site: Site, content: bytes) -> None:
    file = note(site)
    file.write_bytes(content)

    _, [warning] = said(site, NOW)
    missed._expect(site)

    assert f"when it last ran is not known: The memory of a scheduled run {file} is damaged." in warning
    assert said(site, datetime.now(UTC)) == ([], [])


def test_a_note_of_a_later_version_is_left_to_it(site: Site) -> None:
    file = note(site)
    content = json.loads(file.read_text()) | {"format": formats.SCHEDULED.number + 1, "conche": "9.0.0"}
    file.write_text(json.dumps(content))

    [daily, *_] = runs(site)
    missed._expect(site)
    missed._note(site, daily, NOW)

    assert json.loads(file.read_text()) == content
    _, [warning] = said(site, NOW)
    assert "written by Conche 9.0.0" in warning


def test_a_state_folder_that_cannot_be_written_prevents_no_backup(site: Site, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file in its place")
    [daily, *_] = runs(site)

    with missed._noted(site, log_of(site, daily)):
        assert list(missed._owed(site)) == []

    assert (tmp_path / "state").read_text() == "a file in its place"


def test_an_installed_schedule_is_counted_from_then_on_and_an_unchanged_one_stays(site: Site) -> None:
    file = note(site, started="2026-03-02T02:00:00+00:00")
    before = file.read_bytes()

    missed._expect(site)

    assert file.read_bytes() == before
    assert {path.name.rpartition("-")[2] for path in file.parent.iterdir()} == {
        f"{entry.name}.json" for entry in runs(site)
    }
    forget(site)
    assert list(file.parent.iterdir()) == []


def call(site: Site, *, dry_run: bool = False) -> Invocation:
    return Invocation(site.root, Output("backup.cron"), dry_run=dry_run, _stack=site.stack)


@contextmanager
def programs(site: Site, monkeypatch: pytest.MonkeyPatch, status: int = 0) -> Iterator[Path]:
    """Have a program in the place of invoke that notes what it is asked, and starts the entry as invoke would."""
    asked = site.root / "asked"
    program = site.root / "program"
    program.write_text(f'#!/bin/sh\necho "$@" >> asked\nexit {status}\n')
    program.chmod(0o755)
    monkeypatch.setattr(missed, "command", lambda: (str(program),))
    yield asked


def test_what_is_owed_runs_once_with_its_own_log(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    note(site, started=ago(days=3))

    with programs(site, monkeypatch) as asked:
        planned = catch_up(call(site, dry_run=True), site, None)
        assert not asked.exists()
        outcome = catch_up(call(site), site, None)

    [step] = planned.plan.steps
    assert step.name == "daily"
    assert asked.read_text() == f"backup.create daily --wait 7200 --log {site.root}/logs/backup-daily.log\n"
    assert (outcome.exit_code, outcome.changed) == (0, True)


def test_what_could_not_be_noted_is_not_made_up_for_again_and_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    note(site, started=ago(days=3))
    monkeypatch.setattr(missed, "write_atomic", full)

    with programs(site, monkeypatch) as asked, pytest.raises(Refused, match="No space left") as refused:
        catch_up(call(site), site, None)

    assert refused.value.code == "run-not-notable"
    assert not asked.exists()


def test_a_run_that_fails_is_told_with_its_log(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    note(site, started=ago(days=3))

    with programs(site, monkeypatch, status=9):
        outcome = catch_up(call(site), site, None)

    assert outcome.exit_code == 3
    [table] = outcome.tables
    assert table.rows[0][2:] == ("9", f"{site.root}/logs/backup-daily.log")


def test_where_nothing_is_owed_nothing_runs_and_nothing_is_printed(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = site.root / "logs/backup-catch-up.log"

    with programs(site, monkeypatch) as asked:
        first = catch_up(call(site), site, str(log))
        second = catch_up(call(site), site, str(log))

    assert (asked.exists(), log.exists(), capsys.readouterr()) == (False, False, ("", ""))
    assert (len(first.plan), len(second.plan), *first.lines, *first.tables) == (0, 0)


def test_while_one_makes_up_for_it_no_second_one_does(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    note(site, started=ago(days=3))

    with programs(site, monkeypatch) as asked, lock(f"catch-up-{missed._place(site)}", "backup.cron catch-up"):
        outcome = catch_up(call(site), site, str(site.root / "logs/backup-catch-up.log"))

    assert (asked.exists(), outcome.changed) == (False, False)


@pytest.mark.process
def test_an_error_that_stays_is_mailed_once_and_logged_every_time(tmp_path: Path) -> None:
    checkout = Checkout.create(tmp_path)
    whole, log = (checkout.folder / "stack.yaml").read_text(), checkout.folder / "logs/backup-catch-up.log"

    def checked(text: str) -> tuple[int, bool]:
        (checkout.folder / "stack.yaml").write_text(text)
        words = ("backup.cron", "catch-up", "--log", "logs/backup-catch-up.log")
        done = checkout.invoke(*words, XDG_STATE_HOME=str(tmp_path / "state"))
        return done.returncode, bool(done.stdout + done.stderr)

    found = [checked(text) for text in ("a: [", "a: [", whole, "a: [")]

    assert found == [(2, True), (2, False), (0, False), (2, True)]
    assert log.read_text().count("[stack-invalid]") == 1


def test_the_check_is_an_entry_of_its_own(site: Site) -> None:
    assert [entry.name for entry in entries(site)] == ["daily", "weekly", "monthly", "drill", "catch-up", "reboot"]


@pytest.mark.process
def test_a_backup_that_was_missed_is_made_and_told(tmp_path: Path) -> None:
    checkout = Checkout.create(tmp_path)
    state = str(tmp_path / "state")
    first = checkout.invoke("backup.cron", "catch-up", XDG_STATE_HOME=state)
    [file] = (tmp_path / "state").rglob("run-*-daily.json")
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {"started": ago(days=2)}))

    late = checkout.invoke("backup.status", XDG_STATE_HOME=state)
    again = checkout.invoke("backup.cron", "catch-up", "--log", "logs/backup-catch-up.log", XDG_STATE_HOME=state)
    after = checkout.invoke("backup.status", XDG_STATE_HOME=state)

    assert (first.returncode, first.stdout) == (0, "")
    assert "was missed and is not made up for" in late.stderr
    assert again.returncode == 0, (checkout.folder / "logs/backup-daily.log").read_text()
    assert len(checkout.backups()) == 1
    assert "was missed; this one makes up for it." in (checkout.folder / "logs/backup-daily.log").read_text()
    assert "daily: running now" in (checkout.folder / "logs/backup-catch-up.log").read_text()
    assert (after.returncode, "it was made up for on" in after.stdout) == (0, True)
