"""backup.undo: puts back what a restore has put aside, and puts aside what is there now."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from conche.backup import online, settling, users
from conche.backup.exchange import RESTORED, Journal, Pair
from conche.backup.locks import PATIENCE, environments_of, locked
from conche.backup.online import Given
from conche.backup.replacing import Replaced, Replacing, new_number, replace_data
from conche.backup.site import Site, open_site
from conche.backup.staging import unsaved
from conche.backup.target import unwritable
from conche.backup.users import User
from conche.command import Invocation
from conche.errors import NotFound, Refused, did_you_mean
from conche.outcome import Action, Kind, Outcome, Plan, Step
from conche.vault.values import files_locked

__all__ = ["UndoOptions", "undo"]


@dataclass(frozen=True)
class UndoOptions:
    """What a user asks.

    Attributes:
        force: do not ask.
        blind: go on even if what is there now cannot be dumped, so that it cannot be put back in turn.
    """

    force: bool = False
    blind: bool = False


def undo(call: Invocation, number: str | None, options: UndoOptions) -> Outcome:
    """Put back what a restore has put aside; the newest one if no number is given."""
    site = open_site(call)
    old = _chosen(site, number)
    names = [name for name in old.fed if name not in old.blind]
    pairs = _pairs(site, old)
    _require_there(site, old, names)
    plan = _plan(old, names, _seen(site, old))
    if lost := [name for name in old.fed if name in old.blind]:
        site.say(f"warning: {', '.join(lost)} was restored without a copy of what was there, and stays as it is")
    if call.dry_run:
        return Outcome(plan=plan)
    if not (options.force or call.yes):
        said = ", ".join(old.components)
        call.output.confirm(f"{said} will be as before the restore {old.number}.", option="--force")
    purpose = f"invoke backup.undo {old.number}"
    named = [known for one in old.components if (known := site.section.components.get(one)) is not None]
    touched = environments_of(site, _seen(site, old).values()) | {one.environment for one in named if one.environment}
    try:
        with (
            locked(call, site, purpose, touched),
            files_locked(call.stack, site.root, [Path(one.live) for one in pairs], purpose, call.patience(PATIENCE)),
        ):
            return _put_back(site, old.number, plan, blind=options.blind)
    except OSError as error:
        raise unwritable(site.own, error) from error


def _chosen(site: Site, number: str | None) -> Journal:
    """Return the record of the restore that is to be undone.

    Raises:
        NotFound: there is none.
    """
    every, damaged = Journal.restored(site.own)
    for file in damaged:
        site.say(f"warning: {file} is damaged, so that restore can only be undone by hand")
    for one in reversed(every):
        if number in (None, one.number):
            return one
    known = [one.number for one in every]
    raise NotFound(
        "no-such-restore",
        f"There is no restore {number}.{did_you_mean(number, known)}"
        if number
        else "There is no restore to undo: what one puts aside is kept until the next complete backup.",
        looked_at=[str(site.own / f"{RESTORED}*.json"), *(f"{one.number}: {one.backup}" for one in every)],
        next_command="invoke backup.list    # restore an earlier backup",
    )


def _pairs(site: Site, old: Journal) -> list[Pair]:
    """Return what changes places now; first what a folder takes with it, as a restore does.

    Raises:
        NotFound: something that was put aside is not there any more.
    """
    pairs: list[Pair] = []
    for one in old.pairs:
        if not Path(one.staged).is_relative_to(site.own):  # the checkout was moved, or copied
            raise _gone(site, old, one.staged)
        kept, live = old.kept(site.own, one), Path(one.live)
        if one.base:
            continue
        if os.path.lexists(kept):
            pair = Pair.of(kept, live)
            name = kept.relative_to(old.aside(site.own)).parts[0]
            carried = unsaved(site, name, live) if kept.is_dir() else ()
            pairs += [pair, *(Pair.carrying(pair, below) for below in carried)]
        elif not one.fresh:
            raise _gone(site, old, str(kept))
        elif os.path.lexists(live):
            pairs.append(Pair.removing(kept, live))
    return pairs


def _require_there(site: Site, old: Journal, names: list[str]) -> None:
    """Check that the rest of what was put aside is there.

    Raises:
        NotFound: it is not.
        Refused: nothing was put aside.
    """
    for name in names:
        folder = old.aside(site.own) / name
        if not folder.is_dir() or not any(folder.iterdir()):
            raise _gone(site, old, str(folder))
    for swap in old.swaps:
        if not swap.holds(old.number):
            raise _gone(site, old, f".pre-restore-{old.number} in the volume {swap.volume}")
    if not (old.pairs or old.swaps or names):
        raise Refused(
            "nothing-put-aside",
            f"The restore {old.number} has put nothing aside, so it cannot be undone.",
            next_command="invoke backup.list    # restore an earlier backup",
        )


def _gone(site: Site, old: Journal, what: str) -> NotFound:
    return NotFound(
        "copy-gone",
        f"What the restore {old.number} put aside is not all there any more: {what} is missing. Nothing was touched.",
        looked_at=[str(old.aside(site.own)), *(f"the volume {one.volume}" for one in old.swaps)],
        next_command="invoke backup.list    # restore an earlier backup",
    )


def _seen(site: Site, old: Journal) -> dict[str, User]:
    """Return every container that has to stop, in its present state.

    Raises:
        Refused: a swarm has what uses the data.
    """
    users.require_resting(site, old.swaps)
    return _users(site, old) | online.writers(site, old.components)


def _users(site: Site, old: Journal) -> dict[str, User]:
    return users.of_places(site, [Path(one.live) for one in old.pairs], old.swaps)


def _plan(old: Journal, names: list[str], seen: Mapping[str, User]) -> Plan:
    stopped = [one.container.name for one in seen.values()]
    cause = f"as before the restore of {old.backup}" if old.backup else "as before the restore"
    lost = [name for name in old.fed if name not in names]
    parts = [name for name in old.components if name not in lost]
    return Plan(
        (
            *(Step(Action.STOP, Kind.CONTAINER, name, "it uses the data", undo="start it") for name in stopped),
            *(
                Step(Action.EXCHANGE, Kind.COMPONENT, name, cause, undo="exchange again", destroys=True)
                for name in parts
            ),
            *(Step(Action.START, Kind.CONTAINER, name, "it ran before") for name in stopped),
        )
    )


def _put_back(site: Site, number: str, plan: Plan, *, blind: bool) -> Outcome:
    """Put back what a restore has put aside; the caller holds the locks."""
    settling.require_settled(site)
    old = _chosen(site, number)  # what was left by a killed command has been settled since
    pairs = _pairs(site, old)
    names = [name for name in old.fed if name not in old.blind]
    _require_there(site, old, names)
    users.require_stoppable(_seen(site, old))
    parts = [name for name in old.components if name not in old.fed or name in names]
    journal = Journal(new_number(), parts, pairs, old.swaps, backup=old.backup, again=old.number)

    def load(since: Mapping[str, datetime]) -> Given:
        return online.put_back(site, old, names, journal, since)

    work = Replacing(
        loaded=names,
        stage=list,
        users=lambda: _users(site, old),
        load=load,
        blindly=None if blind else lambda _: f"invoke backup.undo {old.number} --no-way-back",
    )
    return _outcome(site, old, journal, plan, replace_data(site, journal, work))


def _outcome(site: Site, old: Journal, journal: Journal, plan: Plan, done: Replaced) -> Outcome:
    kept = journal.aside(site.own)
    aside = [str(kept)] if kept.exists() else []
    aside += [f"in volumes, .pre-restore-{journal.number}"] if journal.swaps else []
    backup = f" of {old.backup}" if old.backup else ""
    return Outcome(
        value={
            "undone": old.number,
            "restore": journal.number,
            "backup": old.backup,
            "components": journal.components,
            "old_data": str(kept) if kept.exists() else None,
            **done.given.as_json(),
        },
        changed=True,
        plan=plan,
        warnings=done.warnings,
        lines=[
            f"{', '.join(journal.components)}: as before the restore{backup}",
            *done.given.lines,
            f"What was there until now is kept until the next complete backup: {' and, '.join(aside)}",
            "Put it back: invoke backup.undo",
        ],
        exit_code=done.given.exit_code,
    )
