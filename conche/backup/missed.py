"""Runs of the schedule that were missed, because the machine was off or asleep: told, and made up for.

cron lets a missed run pass. systemd makes up for it (Persistent=), but lets one pass whose time the clock skips in
spring. So each scheduled command notes when it has started and that it has ended, and every quarter of an hour
`backup.cron catch-up` runs what was due since and has not started, or was interrupted: once, however often that was.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn

from conche.backup import notes
from conche.backup.logfile import logged
from conche.backup.schedule import ScheduleEntry, command, log_of, runs
from conche.backup.site import Site, open_site
from conche.command import Invocation
from conche.errors import Locked, Refused, Told
from conche.files import lock, state_folder, write_atomic
from conche.formats import SCHEDULED
from conche.outcome import Action, Kind, Outcome, Plan, Step, Table
from conche.process import run
from conche.stack import schedule

__all__ = ["catch_up", "forget", "report_once", "said", "scheduled"]

LATE = timedelta(minutes=10)
"""How long after its time a run counts as missed: cron and systemd start it within a minute, a loaded machine later."""

SKEW = timedelta(days=1)
"""A start further in the future than this was noted by a wrong clock, and tells nothing."""


@dataclass(frozen=True)
class Started:
    """When an entry last started.

    Attributes:
        when: its schedule then.
        instead_of: the missed run that it made up for, if it did.
        ended: by itself, well or not; else it runs, or was interrupted by a power cut or a signal.
    """

    when: str
    started: datetime
    instead_of: datetime | None = None
    ended: bool = True

    def tells(self, entry: ScheduleEntry, now: datetime) -> bool:
        """Return whether what an entry has missed can be counted from this run."""
        return self.when == entry.when and self.started <= now + SKEW

    def misses(self, entry: ScheduleEntry, now: datetime) -> datetime | None:
        """Return the run that an entry has missed since this one; None if there is none, or that cannot be known."""
        if not self.tells(entry, now):
            return None
        due = schedule.read(entry.when).latest(now - LATE)
        return due if self.started < due else None

    def interrupted(self, entry: ScheduleEntry, now: datetime) -> datetime | None:
        """Return this run if it has not ended and does not make up for another: nothing is tried for ever."""
        broken = self.tells(entry, now) and not self.ended and self.instead_of is None
        return self.started if broken else None


def scheduled(call: Invocation, log: str | None, work: Callable[[], Outcome]) -> Outcome:
    """Do the work of a command that may be scheduled.

    Args:
        log: where everything that it prints goes; the log of an entry tells that this is a run of that entry.
    """

    def noted() -> Outcome:
        with _noted(open_site(call), Path(log or "")):
            return work()

    return logged(log, work if log is None else noted)


@contextlib.contextmanager
def _noted(site: Site, log: Path) -> Iterator[None]:
    """Note that the entry with this log has started, hold its lock while it runs, and note that it has ended."""
    entry = _entry_of(site, log)
    if entry is None:
        yield
        return
    with contextlib.ExitStack() as held:
        # The one before is still running; or there is no place for a lock, which must not prevent a backup.
        with contextlib.suppress(Locked, Refused, OSError):
            held.enter_context(lock(_lock_of(site, entry), f"the scheduled {entry.name}", wait=1.0))
        begun = _note(site, entry, datetime.now(UTC))
        try:
            yield
        except Exception:  # a signal is none
            _note_end(site, entry, begun)
            raise
        _note_end(site, entry, begun)


def _note_end(site: Site, entry: ScheduleEntry, begun: Started) -> None:
    """Note that a run has ended, unless the entry's next one has started meanwhile: that would count as missed."""
    if _last(site, entry) == begun:
        _write(site, entry, replace(begun, ended=True))


def _is_running(site: Site, entry: ScheduleEntry) -> bool:
    try:
        with lock(_lock_of(site, entry), "backup.cron catch-up"):
            return False
    except (Locked, Refused, OSError):
        return True


def _lock_of(site: Site, entry: ScheduleEntry) -> str:
    return f"run-{_place(site)}-{entry.name}"


def _expect(site: Site) -> None:
    """Count from now on what is missed of entries that are new, or have another schedule."""
    now = datetime.now(UTC)
    for entry in runs(site):
        before = _last(site, entry)
        if before is None or not before.tells(entry, now):
            _write(site, entry, Started(entry.when, now))


def forget(site: Site) -> None:
    """Forget what has run: there is no schedule any more."""
    for file in _folder(site).glob(f"run-{_place(site)}-*.json"):
        file.unlink(missing_ok=True)


def catch_up(call: Invocation, site: Site, log: str | None) -> Outcome:
    """Run what was missed, one after the other; each writes to its own log and tells of its own failure."""
    if not call.dry_run:
        _expect(site)
    owed = list(_owed(site))
    plan = Plan(
        tuple(Step(Action.RUN, Kind.SCHEDULE, one.name, f"{_moment(due)} was {how}") for one, (due, how) in owed)
    )
    if call.dry_run or not owed:
        return Outcome(plan=plan)
    try:
        with lock(f"catch-up-{_place(site)}", "backup.cron catch-up"):
            return logged(log, lambda: _made_up(call, site, plan))
    except Locked:
        if log is None:
            raise
        return Outcome()  # a backup may well take longer than until the next check


def report_once(root: Path, log: str | None, work: Callable[[], Outcome]) -> Outcome:
    """Do what a schedule does every quarter of an hour; an error like the last one only goes to the log.

    cron sends a mail of all that is printed, so that a stack.yaml which is being edited would send a hundred a day.
    """
    if log is None:
        return work()
    file = state_folder() / f"catch-up-{_hashed(root)}.told"
    try:
        outcome = work()
    except Told as error:
        if _is_news(file, f"{error.code} {error.message}"):
            raise
        return logged(log, functools.partial(_fail, error))
    with contextlib.suppress(OSError):
        file.unlink(missing_ok=True)
    return outcome


def _is_news(file: Path, said: str) -> bool:
    """Note an error, and return whether it is another one than the last; one that cannot be noted always is."""
    digest = hashlib.sha256(said.encode(errors="surrogateescape")).hexdigest().encode()
    try:
        if file.exists() and file.read_bytes() == digest:
            return False
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(file, digest, mode=0o600)
    except OSError:
        return True
    return True


def _fail(error: Told) -> NoReturn:
    raise error


def _made_up(call: Invocation, site: Site, plan: Plan) -> Outcome:
    rows = []
    # What was owed may have run while its predecessor did.
    for entry in runs(site):
        if (still := dict(_owed(site)).get(entry)) is not None:
            due, how = still
            _require_notable(site, entry)
            call.output.say(f"{entry.name}: running now, since the run of {_moment(due)} was {how}")
            words = (*command(), *entry.words, "--log", str(log_of(site, entry)))
            # It is this very program, so it may have all of this one's variables, as cron or systemd gave them.
            done = run(words, cwd=site.root, extra_env=os.environ)
            rows.append((entry.name, _moment(due), str(done.exit_code), str(log_of(site, entry))))
    return Outcome(
        value=[{"entry": name, "due": due, "exit": int(code)} for name, due, code, _ in rows],
        changed=bool(rows),
        plan=plan,
        tables=[Table(("entry", "was due", "exit code", "log"), tuple(rows))],
        exit_code=3 if any(code != "0" for _, _, code, _ in rows) else 0,
    )


def _require_notable(site: Site, entry: ScheduleEntry) -> None:
    """Refuse a run whose start cannot be noted: it would count as missed again, every quarter of an hour."""
    file = _file(site, entry)
    try:
        write_atomic(file, file.read_bytes(), mode=0o600)
    except OSError as error:
        raise Refused(
            "run-not-notable",
            f"When {entry.name} starts cannot be noted: {error.strerror}. It was missed, and is not made up for.",
            looked_at=[str(file)],
            next_command=f"df -h '{file.parent}'\nls -ld '{file.parent}'",
        ) from error


def said(site: Site, now: datetime) -> tuple[list[str], list[str]]:
    """Return what to tell of missed runs: those made up for, and as warnings those not made up for yet."""
    told, warnings = [], []
    for entry in runs(site):
        try:
            last = _read(site, entry)
        except Told as error:
            warnings.append(f"{entry.name}: when it last ran is not known: {error.message}")
            continue
        if last is None:
            continue
        if last.instead_of is not None:
            made = f"it was made up for on {_moment(last.started)}"
            told.append(f"{entry.name}: the run of {_moment(last.instead_of)} was missed; {made}")
        if (owed := _owes(site, entry, last, now)) is not None:
            due, how = owed
            warnings.append(
                f"{entry.name}: the run of {_moment(due)} was {how} and is not made up for:"
                " invoke backup.cron status, or invoke backup.cron catch-up"
            )
    return told, warnings


def _owed(site: Site) -> Iterator[tuple[ScheduleEntry, tuple[datetime, str]]]:
    """Yield the entries that have to be made up for, with the run that is, and what became of it."""
    now = datetime.now(UTC)
    for entry in runs(site):
        last = _last(site, entry)
        if last is not None and (owed := _owes(site, entry, last, now)) is not None:
            yield entry, owed


def _owes(site: Site, entry: ScheduleEntry, last: Started, now: datetime) -> tuple[datetime, str] | None:
    if due := last.misses(entry, now):
        return due, "missed"
    if (due := last.interrupted(entry, now)) and not _is_running(site, entry):
        return due, "interrupted"
    return None


def _entry_of(site: Site, log: Path) -> ScheduleEntry | None:
    return next((entry for entry in runs(site) if log_of(site, entry) == log), None)


def _note(site: Site, entry: ScheduleEntry, now: datetime) -> Started:
    """Note that an entry has started, and say what it makes up for."""
    last = _last(site, entry)
    due = (last.misses(entry, now) or last.interrupted(entry, now)) if last else None
    if due and last:
        how = "interrupted" if due == last.started else "missed"
        site.say(f"The run of {_moment(due)} was {how}; this one makes up for it.")
    begun = Started(entry.when, now, due, ended=False)
    _write(site, entry, begun)
    return begun


def _last(site: Site, entry: ScheduleEntry) -> Started | None:
    """Return the last run; None also if that cannot be read: `said` tells it, and from the next run it is known."""
    try:
        return _read(site, entry)
    except Told:
        return None


def _read(site: Site, entry: ScheduleEntry) -> Started | None:
    return notes.read(_file(site, entry), SCHEDULED, _parsed)


def _parsed(content: Mapping[str, Any]) -> Started:
    instead = content["instead_of"]
    ended = content.get("ended", True)  # an earlier version did not note it
    return Started(
        str(content["when"]), _aware(content["started"]), None if instead is None else _aware(instead), ended is True
    )


def _aware(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("a moment without an offset")
    return moment


def _write(site: Site, entry: ScheduleEntry, last: Started) -> None:
    content = {
        "when": last.when,
        "started": last.started.isoformat(),
        "instead_of": last.instead_of.isoformat() if last.instead_of else None,
        "ended": last.ended,
    }
    file = _file(site, entry)
    try:
        _read(site, entry)
    except notes.Damaged:
        pass
    except Told:
        return  # a later version's note is left to it
    # A full disk must not prevent a backup.
    with contextlib.suppress(OSError):
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(file, json.dumps(SCHEDULED.stamped(content)).encode(), mode=0o600)


def _file(site: Site, entry: ScheduleEntry) -> Path:
    return _folder(site) / f"run-{_place(site)}-{entry.name}.json"


def _folder(site: Site) -> Path:
    return state_folder() / site.stack.name


def _place(site: Site) -> str:
    """Return what tells this checkout's schedule from that of another one of the same stack."""
    return _hashed(site.root)


def _hashed(root: Path) -> str:
    return hashlib.sha256(os.fsencode(root)).hexdigest()[:16]


def _moment(moment: datetime) -> str:
    return f"{moment.astimezone():%a %Y-%m-%d %H:%M}"
