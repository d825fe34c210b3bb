"""backup.settle: tries again what other commands could not settle, or on request leaves everything as it is."""

from __future__ import annotations

from collections.abc import Iterator

from conche.backup import holding, running, scaling, settling
from conche.backup.exchange import JOURNAL, KEPT, Aside, Journal
from conche.backup.locks import PATIENCE, locked
from conche.backup.site import Site, open_site
from conche.command import Invocation
from conche.errors import ConcheError, Locked, NotRestored
from conche.outcome import Action, Kind, Outcome, Plan, Step

__all__ = ["settle"]


def settle(call: Invocation, *, as_it_is: bool) -> Outcome:
    """Take a restore back and resume waiting containers, or forget about both."""
    site = open_site(call)
    if call.dry_run:
        if not as_it_is:
            Journal.read(site.own)
            _require_understood(site)
        return Outcome(plan=Plan(tuple(_steps(site, as_it_is=as_it_is))))
    with locked(call, site, "invoke backup.settle", settles=False):
        plan = Plan(tuple(_steps(site, as_it_is=as_it_is)))
        waiting = [*holding.recover(site), *scaling.recover(site)]
        running.recover(site)
        if not as_it_is:
            if waiting:
                raise waiting[0]
            journal = Journal.read(site.own)
            if journal is not None:
                _taken_back(site, journal, call.patience(PATIENCE))
            _require_understood(site)
            lines = ["Settled." if plan else "There is nothing to settle."]
            return Outcome(value={"kept": []}, changed=bool(plan), plan=plan, lines=lines)
        holding.give_up(site)
        scaling.give_up(site)
        running.forget(site)
        kept, lines = _left(site)
        kept += settling.give_up_list(site) if Aside.is_damaged(site.own) else []
    return Outcome(
        value={"kept": kept},
        changed=bool(plan),
        plan=plan,
        lines=[
            "Everything is left as it is." if plan else "There is nothing to settle.",
            *(["The data from before the restore are kept; nothing here deletes them:"] if kept else []),
            *(f"  {place}" for place in kept),
            *lines,
        ],
    )


def _steps(site: Site, *, as_it_is: bool) -> Iterator[Step]:
    if Journal.is_damaged(site.own):
        yield Step(Action.SETTLE, Kind.JOURNAL, JOURNAL, "it is damaged: what was being restored is not known")
    elif (journal := Journal.read(site.own)) is not None:
        cause = journal.stuck or ("it was interrupted" if journal.done else "it was not undone")
        undo = "" if as_it_is else "run it again"
        for name in journal.components:
            yield Step(Action.SETTLE, Kind.COMPONENT, name, cause, undo=undo)
    if Aside.is_damaged(site.own):
        yield Step(Action.SETTLE, Kind.NOTE, KEPT, "it is damaged: what restores have put aside is not known")
    for note in sorted(site.target.store.glob(f"*{holding.NOTE}")):
        yield Step(Action.SETTLE, Kind.NOTE, note.name, "containers are paused or stopped, or helpers were left")
    for note in sorted(site.target.store.glob(f"*{scaling.NOTE}")):
        yield Step(Action.SETTLE, Kind.NOTE, note.name, "services of a swarm are scaled to nothing")
    for program in running.left(site):
        yield Step(
            Action.SETTLE, Kind.CONTAINER, program.name, "what an earlier command started in it may still be running"
        )
    for file in running.unknown(site):
        yield Step(
            Action.SETTLE, Kind.NOTE, file.name, "it is damaged: what an earlier command started may still be running"
        )


def _require_understood(site: Site) -> None:
    """Raise the error of a note that is damaged: only somebody who has looked can say that nothing is left of it."""
    Aside.every(site.own)
    holding.require_understood(site)
    scaling.require_understood(site)
    running.require_understood(site)


def _left(site: Site) -> tuple[list[str], list[str]]:
    """Leave a restore as it is; return where old data are, and what to look at."""
    if Journal.is_damaged(site.own):
        kept = settling.give_up_unknown(site)
        environments = sorted({one.environment for one in site.section.components.values() if one.environment})
        looks = [f"Next: invoke env.status --env {name}" for name in environments]
        return kept, ["Containers that the restore had stopped are still stopped.", *looks] if looks else []
    journal = Journal.read(site.own)
    return (settling.give_up(site, journal), []) if journal is not None else ([], [])


def _taken_back(site: Site, journal: Journal, wait: float) -> None:
    try:
        with settling.excluded(site, journal, wait):
            settling.undo(site, journal, wait=True)
    except Locked:
        raise
    except (ConcheError, OSError) as error:
        raise NotRestored(
            "restore-not-taken-back",
            f"The data from before the restore could not be restored: {error}",
            looked_at=[str(journal.staging(site.own))],
            evidence=error.evidence if isinstance(error, ConcheError) else (),
            next_command="invoke backup.settle    # once that is fixed\n"
            "invoke backup.settle --as-it-is    # leave it; the old data are kept",
        ) from error
