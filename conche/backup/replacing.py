"""Replaces data in place: stop what uses them, exchange or load, start again; and take it all back if that fails."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from conche.backup import online, settling, users
from conche.backup.exchange import Journal
from conche.backup.online import Given
from conche.backup.site import Site
from conche.backup.users import NUMBER, Users
from conche.errors import ConcheError, NotRestored, Restored, Told
from conche.process import signals_deferred

__all__ = ["Replaced", "Replacing", "new_number", "replace_data"]


@dataclass(frozen=True)
class Replacing:
    """What a restore, or the undoing of one, does in its own way.

    Attributes:
        loaded: the components that running programs load.
        stage: readies what is exchanged, and notes it in the journal; returns warnings about what is not.
        users: looks for the running containers that use what is exchanged.
        load: has the programs load their data, given since when what is written is no longer in their dumps.
        blindly: returns the command that goes on although a component cannot be dumped; None if it was this one.
    """

    loaded: Sequence[str]
    stage: Callable[[], list[str]]
    users: Callable[[], Users]
    load: Callable[[Mapping[str, datetime]], Given]
    blindly: Callable[[str], str] | None


@dataclass(frozen=True)
class Replaced:
    """What came of it.

    Attributes:
        warnings: what to tell the user.
        given: what the running programs made of their data.
    """

    warnings: list[str]
    given: Given


def new_number() -> str:
    """Return the number of a restore that begins now."""
    return f"{datetime.now(UTC):{NUMBER}}"


def replace_data(site: Site, journal: Journal, work: Replacing) -> Replaced:
    """Replace data, journalled: whatever happens, what was there before is there again or is put aside.

    Raises:
        Restored: it did not work; what was there before is there again.
        NotRestored: nor could that be brought back.
    """
    journal.write(site.own)
    try:
        warnings = work.stage()
        journal.write(site.own)
        writing = users.stop(site, journal, lambda: online.writers(site, journal.components))
        since = online.dump_before(site, work.loaded, journal, work.blindly)
        stopped = users.stop(site, journal, work.users)
        _exchange(site, journal)
        users.start(site, [user for id_, user in stopped.items() if id_ not in writing])
        given = work.load(since)
        users.start(site, writing.values())
    except BaseException as error:
        _take_back(site, journal, error)
        raise
    try:
        with signals_deferred():
            journal.done = True
            journal.write(site.own)
            journal.close(site.own)
    except OSError as error:
        warnings.append(
            f"the old data could not be put aside yet ({error.strerror}): the next backup command will do it"
        )
    ran = {**stopped, **writing}.values()
    warnings += [
        f"{one.container.name} was paused; it is running now" for one in ran if one.container.state == "paused"
    ]
    return Replaced([*warnings, *given.warnings], given)


def _exchange(site: Site, journal: Journal) -> None:
    journal.begun = True
    journal.write(site.own)
    site.say("exchanging the old and new data")
    journal.forward()


def _take_back(site: Site, journal: Journal, error: BaseException) -> None:
    """Put back what was there before, and check that it works.

    Raises:
        Restored: what was there before is there again; carries the first error's message.
        NotRestored: it could not be brought back.
    """
    site.say("undoing the restore" if not journal.again else "taking everything back")
    words = error.message if isinstance(error, Told) else str(error)
    evidence = list(error.evidence) if isinstance(error, Told) else []
    try:
        settling.undo(site, journal, wait=True)
    except (ConcheError, OSError) as second:
        raise NotRestored(
            "restore-not-taken-back",
            f"{words} The old data could not be restored: {second}",
            looked_at=[str(site.own), *(f"{swap.volume}: .pre-restore-{journal.number}" for swap in journal.swaps)],
            evidence=evidence,
            next_command=settling.SETTLE,
        ) from error
    if lost := [name for name in journal.fed if name in journal.blind]:
        raise NotRestored(
            "restore-not-taken-back",
            f"{words} {', '.join(lost)} could not be undone, as accepted, and is as the failed restore left it.",
            evidence=evidence,
            next_command="invoke backup.list    # restore another one",
        ) from error
    if isinstance(error, (ConcheError, OSError)):
        unproven = [name for name in journal.fed if name not in journal.answers]
        doubt = f" Without a `check`, that is not proven of {', '.join(unproven)}." if unproven else ""
        raise Restored(
            "restore-taken-back",
            f"{words} The old data are back in place.{doubt}",
            evidence=evidence,
            next_command=error.next_command if isinstance(error, Told) else "",
        ) from error
