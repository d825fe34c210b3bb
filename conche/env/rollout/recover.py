"""Settles what a killed release has left: finishes it if it already serves, takes it back if it does not.

What the edge does counts for more than what the records say: what serves is never removed because its record is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from conche.command import Invocation
from conche.engine import containers, health, kept
from conche.engine.compose import Compose
from conche.engine.containers import Container
from conche.engine.service import Service
from conche.env import trial
from conche.env.evidence import evidence
from conche.env.rollout import members
from conche.env.rollout.dependents import followers
from conche.env.rollout.edge import Answer
from conche.env.rollout.handover import give_back
from conche.env.rollout.look import NOTHING, Look
from conche.env.rollout.route import bring_back
from conche.env.rollout.scaling import resume
from conche.env.rollout.view import compose_of, of_today, open_records, opened, require_whole
from conche.errors import NotRestored
from conche.outcome import Action, Kind, Plan, Step
from conche.release.document import RELEASE
from conche.release.records import Ending, Record, Records, Result
from conche.session import Session
from conche.stack import TRIAL

__all__ = ["Recovery", "plan_recovery", "settle"]


@dataclass(frozen=True)
class Recovery:
    """How an environment is settled.

    Attributes:
        serves: the release that serves afterwards; empty for none.
        finished: whether that is the one that was interrupted.
    """

    plan: Plan
    serves: str
    finished: bool


def plan_recovery(records: Records, look: Look, *, thorough: bool = True) -> Recovery:
    """Plan the steps that settle an interrupted release and leftovers.

    Args:
        thorough: ask the edge even if neither the records nor the containers show anything to settle.
    """
    unfinished, there = records.unfinished, look.labels()
    current = records.current.label if records.current else ""
    plain = unfinished is None and there == ([current] if current else [])
    seen = look.state() if look.deploy.serves and (thorough or not plain) else None
    at = seen[0] if seen else ""
    finished = unfinished is not None and seen is not None and _finished(look, unfinished, seen, records.maintained)
    interrupted = unfinished.label if unfinished and not unfinished.keeps else ""
    serves = at if finished else _before(at, current, there, interrupted)
    twins = kept.twins(look.compose.engine, look.compose.project)
    lost = kept.interrupted(twins, look.all() if twins else ())
    steps = [Step(Action.RESTORE, Kind.SERVICE, name, "its replacement was interrupted") for name in lost]
    if unfinished is not None:
        action, why = (Action.FINISH, "it serves already") if finished else (Action.REVERT, "it did not serve yet")
        steps.append(Step(action, Kind.RELEASE, unfinished.id, f"it was interrupted, and {why}"))
    if records.scaling is not None:
        service, count = records.scaling
        steps.append(Step(Action.SCALE, Kind.SERVICE, service, f"env.scale was interrupted; it settles at {count}"))
    holders = records.handover(interrupted) if unfinished is not None and not finished else ()
    if holders:
        steps.append(Step(Action.RETURN, Kind.PORT, f"of {look.deploy.edge}", "to the containers that had it before"))
        at = ""  # no edge is left that could be switched
    if unfinished is not None and records.current is not None and not finished:
        steps += _replaced(look, unfinished, records.current, spared=look.deploy.edge if holders else None)
        steps += _following(look, steps)
    if look.deploy.serves is not None:
        scaled, settles_at = records.scaling or ("", None)
        steps += _served_steps(look, serves, at, there, settles_at if scaled == look.deploy.serves else None)
        settled = finished or holders or any(step.action in (Action.START, Action.SWITCH) for step in steps)
        astray = _astray(records, look, serves, seen) if seen is not None and not settled else ""
        steps += [Step(Action.SWITCH, Kind.EDGE, f"to {serves}", astray)] if astray else []
    steps += [Step(Action.REMOVE, Kind.CONTAINER, one.name, f"left over from {why}") for one, why in _others(look)]
    return Recovery(Plan(tuple(steps)), serves, finished)


def _finished(look: Look, unfinished: Record, seen: tuple[str, Answer], maintained: bool) -> bool:
    """Return whether an interrupted release serves already, and its users are answered as they should be."""
    at, answer = seen
    if at != unfinished.label or not look.answers(at):
        return False
    if unfinished.keeps and look.configured() != unfinished.edge:
        return False
    return maintained or look.right(answer, at)


def _astray(records: Records, look: Look, serves: str, seen: tuple[str, Answer]) -> str:
    """Return why the edge has to be switched though it sends requests to the right release; empty if it need not."""
    current, unfinished = records.current, records.unfinished
    if unfinished is not None and unfinished.keeps and look.configured() == unfinished.edge:
        return f"it has the configuration of {unfinished.id}"
    if records.maintained or current is None or serves != current.label:
        return ""
    answer = look.astray(serves, seen)
    return f"its users get {answer}" if answer else ""


def _before(at: str, current: str, there: list[str], interrupted: str) -> str:
    """Return the release to serve instead of the interrupted one: the edge's, else the current one, else any."""
    candidates = [one for one in (at, current, *there) if one in there and one != interrupted]
    return candidates[0] if candidates else current


def _served_steps(look: Look, serves: str, at: str, there: list[str], count: int | None) -> Iterator[Step]:
    """Yield steps for what the edge serves; `count` is how many of it an interrupted env.scale settles at."""
    found = look.of(look.deploy.serves or "")
    ours = [one for one in found if one.labels.get(RELEASE, "") == serves]
    stopped = sorted((one for one in ours if one.state != "running"), key=lambda one: str(one.started_at))
    # Those beyond the count go: they are not started before.
    missing = len(stopped) if count is None else max(0, count - (len(ours) - len(stopped)))
    for one in stopped[:missing]:
        yield Step(Action.START, Kind.CONTAINER, one.name, f"is {one.state}, and belongs to {serves}")
    target = serves if serves in there else NOTHING
    if at and at not in (target, serves):
        yield Step(Action.SWITCH, Kind.EDGE, f"to {target}", f"it sends requests to {at}")
    for one in found:
        if one.labels.get(RELEASE, "") != serves:
            yield Step(Action.REMOVE, Kind.CONTAINER, one.name, f"left over from {_whose(one)}")


def _replaced(look: Look, unfinished: Record, current: Record, spared: str | None) -> Iterator[Step]:
    """Yield steps to undo what an interrupted release has replaced or added among services not behind the edge."""
    for name, placed in unfinished.services.items():
        if name in (look.deploy.serves, spared):
            continue
        before, found = current.services.get(name), look.of(name)
        if before is None:
            for one in found:
                yield Step(Action.REMOVE, Kind.CONTAINER, one.name, f"only the interrupted {unfinished.id} has it")
        elif any(one.config_hash in placed.hashes and one.config_hash not in before.hashes for one in found):
            cause = f"it matches the interrupted {unfinished.id}, not {current.id}"
            yield Step(Action.RECREATE, Kind.SERVICE, name, cause)


def _following(look: Look, anew: Sequence[Step] = ()) -> list[Step]:
    """Return restarts of what follows services that are recreated, or were when whoever did it was killed."""
    recreated = {step.name for step in anew if step.action == Action.RECREATE}
    spared = (look.deploy.serves, look.deploy.edge)
    return list(followers(look.rendered.get("services") or {}, look.all(), recreated, spared))


def _others(look: Look) -> Iterator[tuple[Container, str]]:
    engine, project = look.compose.engine, look.compose.project
    # Containers of release commands: Compose calls them one-off.
    for one in containers.one_off(engine, project):
        if one.name.endswith("-command"):
            yield one, "a release command"
    for one in containers.of_project(engine, project + TRIAL):
        yield one, "an interrupted trial"
    twins = kept.twins(engine, project)
    lost = kept.interrupted(twins, look.all() if twins else ())
    for one in twins:
        if one.service not in lost:
            yield one, "an interrupted replacement"


def settle(call: Invocation, records: Records, look: Look, *, strict: bool = False, thorough: bool = False) -> Records:
    """Settle what was left, say so, and return the records, read anew.

    Args:
        thorough: ask the edge even if nothing shows anything to settle.
        strict: fail if what served before does not start again, instead of leaving everything to the next release.

    Raises:
        NotRestored: what served before no longer works, and nothing was removed.
    """
    recovery = plan_recovery(records, look, thorough=strict or thorough)
    if not len(recovery.plan):
        return records
    unfinished = records.unfinished
    if unfinished is not None:
        call.output.say(f"{unfinished.id} was interrupted ({unfinished.who} on {unfinished.where}): settling it first")
    _restore(look, recovery.plan)
    resume(records, look, recovery.serves, call.output.say)
    if any(step.action == Action.RETURN for step in recovery.plan) and unfinished is not None:
        give_back(look, records.handover(unfinished.id))
    try:
        # Running containers first: the edge is only sent back to what works.
        _start(look, recovery)
    except NotRestored as error:
        if strict:
            raise
        call.output.say(f"{error.message} The new release takes over from the current state")
        if unfinished is not None:
            records.end(unfinished, _ending(Result.INTERRUPTED))
        return open_records(Session(call, look.name, look.compose))
    _switch(call, records, look, recovery.plan, strict=strict)
    if strict:
        _recreate(call, records, look, recovery.plan)
    elif any(step.action == Action.RESTART for step in recovery.plan):
        # A new release itself replaces what it wants to be different, and restarts what follows that.
        _restart(look, [step.name for step in _following(look)])
    _clean(call.output.say, look, recovery.plan)
    if unfinished is not None:
        ending = _ending(Result.SUCCEEDED if recovery.finished else Result.INTERRUPTED)
        records.end(unfinished, replace(ending, made=look.made(unfinished) if recovery.finished else {}))
    return open_records(Session(call, look.name, look.compose))


def _restore(look: Look, plan: Plan) -> None:
    """Bring back what was running when its replacement was interrupted."""
    for step in plan:
        if step.action == Action.RESTORE:
            kept.bring_back(look.compose.engine, look.compose.project, step.name)


def _switch(call: Invocation, records: Records, look: Look, plan: Plan, *, strict: bool) -> None:
    """Let the edge send requests to the release that is to serve, as it did before."""
    for step in plan:
        if step.action != Action.SWITCH:
            continue
        try:
            bring_back(call, records, look, step.name.removeprefix("to "))
        except NotRestored as error:
            if strict:
                raise
            call.output.say(f"{error.message} The new release takes over from the current state")


def _recreate(call: Invocation, records: Records, look: Look, plan: Plan) -> None:
    """Make services anew as the current release has them, and wait until they work.

    Raises:
        KeyUnusable: nobody here can open that release.
        NotRestored: one of them cannot be made, or does not work.
    """
    names = [step.name for step in plan if step.action == Action.RECREATE]
    again = [step.name for step in plan if step.action == Action.RESTART]
    document = opened(call, records, records.current) if (names or again) and records.current else None
    if records.current is None or document is None:
        return
    require_whole(document, records.current)
    compose = compose_of(look.compose, of_today(call, records.current.environment, document))
    for name in names:
        made = compose.make(compose.up_alone(name), outlives=True)
        if not made.ok:
            raise _not_back(look, f"{name}, which an interrupted release had replaced,", made.last_lines(8))
    services = compose.configuration(hashed=False).services
    _await_working(look, compose, {name: services[name] for name in names if name in services})
    for name in (one for one in again if one in services):
        _restart(look, [name])
        _await_working(look, compose, {name: services[name]})


def _restart(look: Look, names: Sequence[str]) -> None:
    for name in names:
        for one in look.of(name):
            if one.state == "running":
                containers.restart(look.compose.engine, one)


def _await_working(look: Look, compose: Compose, wanted: Mapping[str, Service]) -> None:
    waiting = health.wait(
        look.compose.engine, lambda: [one for one in look.all() if one.service in wanted], wanted, timeout=None
    )
    if waiting.failed:
        raise _not_back(look, ", ".join(waiting.failed), evidence(compose, waiting))


def _not_back(look: Look, what: str, seen: Sequence[str]) -> NotRestored:
    return NotRestored(
        "previous-state-lost",
        f"{what} could not be restored to what it was.",
        evidence=seen,
        next_command=f"invoke env.logs --env {look.name}\ninvoke env.recover --env {look.name}",
    )


def _start(look: Look, recovery: Recovery) -> None:
    """Start what belongs to the release that serves, and wait until it works."""
    wanted = {step.name for step in recovery.plan if step.action == Action.START}
    stopped = [one for one in look.all() if one.name in wanted]
    if not stopped:
        return
    with members.naming(look, _serving(look, recovery.serves)):
        _await(look, recovery, stopped)


def _serving(look: Look, release: str) -> list[Container]:
    """Return what already serves of a release that has users: what is started beside it gets none until it works."""
    if look.deploy.serves is None or look.serving() != release:
        return []
    found = look.of_release(look.deploy.serves, release)
    return [one for one in found if one.state == "running" and one.health != "unhealthy"]


def _await(look: Look, recovery: Recovery, stopped: Sequence[Container]) -> None:
    for one in stopped:
        containers.start(look.compose.engine, one.id)
    ids = {one.id for one in stopped}
    services = {one.service: Service(one.service, one.image, frozenset()) for one in stopped}
    waiting = health.wait(
        look.compose.engine, lambda: [one for one in look.all() if one.id in ids], services, timeout=60.0
    )
    if waiting.failed:
        raise NotRestored(
            "previous-state-lost",
            f"{recovery.serves}, which served before, does not start; nothing was removed.",
            evidence=evidence(look.compose, waiting),
            next_command=f"invoke env.logs --env {look.name}\ninvoke env.history --env {look.name}",
        )


def _clean(say: Callable[[str], None], look: Look, plan: Plan) -> None:
    doomed = {step.name for step in plan if step.action == Action.REMOVE}
    for one in (*look.all(), *(other for other, _ in _others(look))):
        if one.name in doomed:
            say(f"removing {one.name}, left over from {_whose(one)}")
            containers.remove(look.compose.engine, one.id)
    trial.remove(look.compose)


def _whose(one: Container) -> str:
    return one.labels.get(RELEASE) or "an earlier deployment"


def _ending(result: Result) -> Ending:
    ended = datetime.now(UTC).isoformat(timespec="milliseconds")
    return Ending(result.value, ended, 0.0, "" if result is Result.SUCCEEDED else "it was interrupted, and taken back")
