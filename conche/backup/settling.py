"""Settles what earlier commands have left: unfinished restores, waiting containers, and old data put aside by restores.

If a restore cannot be taken back, the next command tries once more, and after that only `backup.settle`: each attempt
feeds a running program its old data again, which loses everything written there meanwhile. Other components are backed
up as usual.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path

from conche.backup import holding, online, running, scaling, users
from conche.backup.drivers.programs import stopping
from conche.backup.exchange import JOURNAL, KEPT, Aside, Journal, staged_in
from conche.backup.manifest import ComponentRecord, Omission
from conche.backup.notes import LEAVE, Damaged
from conche.backup.site import Site
from conche.backup.swap import Swap
from conche.engine import volumes
from conche.engine.connection import Engine
from conche.errors import ConcheError, Locked, Refused, Unreachable
from conche.process import signals_deferred
from conche.vault.values import files_locked

__all__ = [
    "SETTLE",
    "excluded",
    "forget",
    "give_up",
    "give_up_list",
    "give_up_unknown",
    "marked",
    "recover",
    "require_settled",
    "undo",
    "unsettled",
]

SETTLE = "invoke backup.settle    # tries again to undo the restore"


def recover(site: Site) -> None:
    """Resume waiting containers, and finish or take back what a killed restore has left.

    Warns about what cannot be settled, and keeps the note of it.

    Raises:
        WrittenByNewer: a later version has left it.
        CheckFailed: the journal is damaged.
    """
    holding.recover(site)
    scaling.recover(site)
    running.recover(site)
    if not site.own.exists():
        return
    try:
        Aside.every(site.own)  # raises before anything is changed if a later version has written there
    except Damaged as error:
        site.say(f"warning: {error.message} Nothing that it may be about is deleted; run: {LEAVE}")
    journal = Journal.read(site.own)
    if journal is not None and not journal.stuck:
        journal = _tried(site, journal)
    if journal is not None:
        said = f"a restore of {', '.join(journal.components)} was not undone: {journal.stuck}"
        site.say(f"warning: {said}; run: invoke backup.settle")
    staging = {journal.staging(site.own)} if journal else set()
    for left in {*site.own.glob("restore-*")} - staging:
        shutil.rmtree(left, ignore_errors=True)
    for half in [*site.own.glob(".*.json.????????"), *site.own.glob("..gitignore.????????")]:
        half.unlink(missing_ok=True)


def _tried(site: Site, journal: Journal) -> Journal | None:
    """Try to settle a journal; return None if that worked, else the journal with the reason."""
    site.say("a killed restore is " + ("finished" if journal.done else "undone"))
    try:
        with excluded(site, journal):
            undo(site, journal, wait=False)
    except (ConcheError, OSError) as error:
        journal.stuck = error.message if isinstance(error, ConcheError) else str(error)
        # A silent engine may answer a moment later, and somebody at the secrets end: the next command tries again.
        if not isinstance(error, Unreachable | Locked):
            with contextlib.suppress(OSError):
                journal.write(site.own)
        return journal
    return None


def excluded(site: Site, journal: Journal, wait: float | None = None) -> AbstractContextManager[None]:
    """Exclude changes of the encrypted files that a restore has exchanged, while it is taken back."""
    places = [Path(one.live) for one in journal.pairs]
    return files_locked(site.stack, site.root, places, "undoing a restore", wait)


def undo(site: Site, journal: Journal, *, wait: bool) -> None:
    """Take a restore back, or finish it if it is final, and start what was stopped; can be repeated.

    The caller has locked what is exchanged.

    Args:
        wait: wait until what was started works; a program that has to load its old data is waited for in any case.
    """
    with signals_deferred():
        # What a killed restore has started may still unpack, or exchange: it would undo what is done here.
        for swap in journal.swaps:
            volumes.clear_helpers(Engine(swap.engine), swap.volume)
        if not journal.done:
            running.require_ended(site)
            if journal.begun:
                users.stop(site, journal, lambda: users.of_journal(site, journal))
            journal.back()
        fed = [] if journal.done else journal.fed
        # Services that write to a program that has to load its old data start after it.
        late = {(site.stack.project(env), one) for env, one in _writing(site, fed)}
        stopped = users.of_stopped(journal)
        first = [one for one in stopped if (one.container.project, one.container.service) not in late]
        users.start(site, first, wait=wait or bool(fed))
        if fed:
            online.take_back(site, journal)
        users.start(site, [one for one in stopped if one not in first], wait=wait)
        journal.close(site.own)


def _writing(site: Site, names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield environment and name of each service that stops while a running program loads its data."""
    for name in names:
        component = site.section.components.get(name)
        if component is not None and component.environment is not None:
            yield from ((component.environment, service) for service in stopping(component))


def unsettled(site: Site) -> dict[str, str]:
    """Return the components of a restore that is neither finished nor taken back, each with the reason."""
    journal = Journal.read(site.own)
    if journal is None:
        return {}
    why = f"an earlier restore was not undone{': ' * bool(journal.stuck)}{journal.stuck}"
    return dict.fromkeys(journal.components, why)


def marked(name: str, record: ComponentRecord, left: Mapping[str, str]) -> ComponentRecord:
    """Return a component's record, degraded if a restore of it is not settled: nobody knows what it holds."""
    if name not in left:
        return record
    return record.model_copy(update={"left_out": (*record.left_out, Omission(name=name, why=left[name], harmful=True))})


def require_settled(site: Site) -> None:
    """Refuse a restore while another is neither finished nor taken back: the way back of that one would be lost.

    Raises:
        Refused: one is not.
        Damaged: what restores have put aside is not known, so the list could not be continued.
    """
    Aside.every(site.own)
    journal = Journal.read(site.own)
    if journal is not None:
        raise Refused(
            "restore-unsettled",
            f"A restore of {', '.join(journal.components)} is neither finished nor undone.",
            looked_at=[str(site.own / JOURNAL)],
            evidence=[journal.stuck] if journal.stuck else [],
            next_command=SETTLE,
        )


def give_up(site: Site, journal: Journal) -> list[str]:
    """Leave everything as it is now, and forget the restore; return the places where the old data are kept."""
    staging = journal.staging(site.own)
    kept = site.own / f"not-taken-back-{journal.number}"
    names = f".restore-{journal.number} and .pre-restore-{journal.number}"
    places = [f"in the volume {swap.volume}, any of {names}" for swap in journal.swaps]
    with signals_deferred():
        if staging.exists():
            os.replace(staging, kept)
            places.insert(0, str(kept))
        if journal.again:
            places += _give_up_again(site, journal)
        (site.own / JOURNAL).unlink()
    for one in users.of_stopped(journal):
        try:
            users.start(site, [one])
        except ConcheError as error:
            site.say(f"warning: {one.container.name} could not be started: {error.message}")
    return places


def _give_up_again(site: Site, journal: Journal) -> list[str]:
    """Leave what an earlier restore had put aside, and was being put back, where nothing deletes it."""
    old, kept = site.own / f"pre-restore-{journal.again}", site.own / f"not-taken-back-{journal.again}"
    if old.exists():
        os.replace(old, kept)
    Aside.write(site.own, [one for one in Aside.every(site.own) if one.number != journal.again])
    places = [f"in the volume {swap.volume}, any .pre-restore-{journal.again}" for swap in journal.swaps]
    return [*([str(kept)] if kept.exists() else []), *places]


def give_up_unknown(site: Site) -> list[str]:
    """Leave everything as it is now, and put a damaged journal aside; return the places where old data may be.

    The journal goes last: while it is there, no command deletes what it may have been about.
    """
    places = [f"in the volume {one}, any .restore-… and .pre-restore-…" for one in _volumes(site)]
    with signals_deferred():
        for staging in staged_in(site.own):
            kept = staging.with_name(f"not-taken-back-{staging.name.removeprefix('restore-')}")
            os.replace(staging, kept)
            places.insert(0, str(kept))
        kept = site.own / f"not-taken-back-{datetime.now(UTC):%Y%m%dT%H%M%S%f}.json"
        os.replace(site.own / JOURNAL, kept)
    return [*places, f"{kept}, the journal"]


def give_up_list(site: Site) -> list[str]:
    """Put a damaged list of what restores have put aside by; return the places where old data may be.

    Nothing deletes them from then on: which containers may still write there is not known.
    """
    places = [f"in the volume {one}, any .pre-restore-…" for one in _volumes(site)]
    with signals_deferred():
        for old in sorted(site.own.glob("pre-restore-*")):
            kept = old.with_name(f"not-taken-back-{old.name.removeprefix('pre-restore-')}")
            os.replace(old, kept)
            places.insert(0, str(kept))
        kept = site.own / f"not-taken-back-{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{KEPT}"
        os.replace(site.own / KEPT, kept)
    return [*places, f"{kept}, the list"]


def _volumes(site: Site) -> list[str]:
    return sorted({one.volume for one in site.section.components.values() if one.volume})


def forget(site: Site) -> None:
    """Remove the old data that restores have put aside, because a good backup has been made since.

    If a container has run on since before the restore, its old data stay: it may still write there.
    """
    if Aside.is_damaged(site.own):
        return
    every = Aside.every(site.own)
    for old in sorted(site.own.glob("pre-restore-*")):
        number = old.name.removeprefix("pre-restore-")
        live = [Path(one.live) for one in every if one.number == number and one.live]
        if not _is_written(site, str(old), number, users.of_places(site, live or _places(site, old), [])):
            site.say(f"removing old data that a restore had put aside: {old}")
            shutil.rmtree(old, ignore_errors=True)
    left = [one for one in every if _stays(site, one)]
    if left != every:
        Aside.write(site.own, left)
    there = {one.number for one in left}
    for record in Journal.restored(site.own)[0]:
        if record.number not in there and not record.aside(site.own).exists():
            record.forget(site.own)


def _places(site: Site, old: Path) -> list[Path]:
    """Guess where old data were, by their names: earlier versions did not record it."""
    return [site.root / one.name for component in old.iterdir() if component.is_dir() for one in component.iterdir()]


def _stays(site: Site, one: Aside) -> bool:
    """Return whether old data stay where they are; removes those in a volume unless they have to stay."""
    if one.live:
        return (site.own / f"pre-restore-{one.number}").exists()
    try:
        found = users.of_places(site, [], [Swap(one.engine, one.volume)])
        if _is_written(site, f".pre-restore-{one.number} in {one.volume}", one.number, found):
            return True
        Swap(one.engine, one.volume).forget(one.number)
    except ConcheError as error:
        site.say(f"warning: the old data in {one.volume} could not be removed: {error.message}")
        return True
    return False


def _is_written(site: Site, what: str, number: str, found: users.Users) -> bool:
    names = users.since(found, number)
    if names:
        restarts = " ".join(names)
        site.say(f"warning: {what} stays: {', '.join(names)} may still write there; run: docker restart {restarts}")
    return bool(names)
