"""Settles what a killed release has left on a swarm: finishes it if all of it runs, else takes the stack back.

What was there before is kept with each release, since a release may take over a stack that somebody else has made: then
there is no earlier release to go back to, and the swarm itself remembers only the last definition of each service.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from conche.command import Invocation
from conche.engine import stacks, swarm
from conche.engine.stacks import Standing
from conche.engine.swarm import Replicated
from conche.env.rollout.look import Look
from conche.env.rollout.swarm import SwarmPipeline, probing, sent_of
from conche.env.rollout.swarm_way_back import WayBack
from conche.env.rollout.view import open_records, opened_if_possible, require_whole
from conche.errors import KeyUnusable, NotRestored, Restored
from conche.output import Progress
from conche.release.document import Document
from conche.release.records import Ending, Record, Records, Result
from conche.session import Session
from conche.supply.login import credentials

__all__ = ["finished", "settle_swarm"]


def settle_swarm(call: Invocation, records: Records, look: Look, *, strict: bool = False) -> Records:
    """Settle a release that was killed: finish it if all of it runs, else take the stack back to what was before.

    Args:
        strict: fail if it cannot go back, instead of leaving everything to the next release.

    Raises:
        NotRestored: what ran before does not work again.
        KeyUnusable: nobody here can open what was kept.
    """
    unfinished = records.unfinished
    if unfinished is None:
        return records
    call.output.say(f"{unfinished.id} was interrupted ({unfinished.who} on {unfinished.where}): settling it first")
    compose, name = look.compose, look.name
    before = _standing(call, records, unfinished, strict=strict)
    seen = swarm.services(compose.engine, compose.project)
    now = stacks.standing(compose.engine, compose.project)
    look = replace(look, rendered={}).with_probes_of(records)
    runs = finished(unfinished, records.current, seen, now, before)
    if runs and _answers(call, records, look, unfinished):
        cause, result = "", Result.SUCCEEDED
    elif before is not None:
        problem = WayBack(compose.engine, compose.project, call.output.say).go(before)
        if problem and strict:
            raise NotRestored(
                "previous-state-lost",
                f"{unfinished.id} was interrupted, and what ran before could not be restored.",
                evidence=[problem],
                next_command=f"docker stack services {compose.project}\ninvoke env.recover --env {name}",
            )
        cause, result = f"it was interrupted, and {problem or 'taken back'}", Result.INTERRUPTED
    else:
        back = _to_current(call, records, look, strict=strict)
        cause = f"it was interrupted, and {'taken back' if back else 'left as it was: nothing is kept to go back to'}"
        result = Result.INTERRUPTED
    if cause:
        call.output.say(f"{unfinished.id}: {cause}")
    ended = datetime.now(UTC).isoformat(timespec="milliseconds")
    records.end(unfinished, Ending(result.value, ended, 0.0, cause))
    return open_records(Session(call, name, compose))


def finished(
    unfinished: Record, current: Record | None, found: Sequence[Replicated], now: Standing, before: Standing | None
) -> bool:
    """Return whether all of a killed release runs.

    The image of a service tells nothing if the release changes something else of it: then its definition must be
    another than before.
    """
    seen = {one.name: one for one in found}
    runs = seen.keys() >= unfinished.services.keys() and all(
        seen[one].settled and seen[one].image == placed.image for one, placed in unfinished.services.items()
    )
    if not runs or before is None:
        return runs
    earlier = current.services if current else {}
    due = [name for name, placed in unfinished.services.items() if not placed.same_as(earlier.get(name))]
    return all(now.specs.get(name) != before.specs.get(name) for name in due)


def _standing(call: Invocation, records: Records, unfinished: Record, *, strict: bool) -> Standing | None:
    """Return what was there before a release; None if that was not kept, or nobody here can open it."""
    sealed = records.sealed(unfinished, "standing")
    if sealed is None:
        return None
    try:
        return Standing.unpacked(call.vault.unseal(sealed))
    except KeyUnusable:
        if strict:
            raise
        return None


def _answers(call: Invocation, records: Records, look: Look, unfinished: Record) -> bool:
    """Return whether a release that runs answers its users; true also where nobody here can open it to ask it."""
    kept = opened_if_possible(call, records, unfinished)
    if kept is None or _with_its_edge(look, kept).deploy.edge is None:
        return True
    try:
        _pipeline(call, records, look, unfinished, kept).probe()
    except Restored as error:
        call.output.say(f"{unfinished.id} runs, but: {error.message}")
        return False
    return True


def _to_current(call: Invocation, records: Records, look: Look, *, strict: bool) -> bool:
    """Hand the current release to the swarm again; return whether there is one that can be."""
    current = records.current
    kept = opened_if_possible(call, records, current)
    if kept is None or current is None:
        return False
    if kept.masked:
        if strict:
            require_whole(kept, current)
        return False
    pipeline = _pipeline(call, records, look, current, kept)
    pipeline.hand_over(pipeline.sent)
    pipeline.wait(pipeline.sent)
    return True


def _pipeline(call: Invocation, records: Records, look: Look, record: Record, kept: Document) -> SwarmPipeline:
    """Return the pipeline of a release that is recorded already."""
    look = _with_its_edge(look, kept)
    return SwarmPipeline(
        record.id, look.compose.engine, look.compose.project, sent_of(call, look, kept, records.replicas()),
        look.deploy, _nothing, _nothing, probing(look, record.id), look.listening() if look.deploy.edge else 0,
        Progress(call.output), credentials(call.vault), call.stack.registry or "",
    )  # fmt: skip


def _with_its_edge(look: Look, kept: Document) -> Look:
    """Return a look at the environment as a release has it: stack.yaml may have got an edge since."""
    has_it = look.deploy.edge in kept.body["services"]
    deploy = look.deploy if has_it else look.deploy.model_copy(update={"edge": None, "serves": None})
    return replace(look, deploy=deploy, rendered=kept.body)


def _nothing(*_: object) -> None:
    return None
