"""What a killed release has left: finished where the new one serves already, taken back where it does not."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from conche.command import Invocation
from conche.engine import containers, health
from conche.engine.compose import Compose, Service
from conche.engine.containers import Container
from conche.env import trial
from conche.env.deploy.document import RELEASE
from conche.env.deploy.look import NOTHING, Look
from conche.env.deploy.records import Ending, Record, Records, Result
from conche.env.deploy.view import open_records
from conche.errors import ConcheError
from conche.outcome import Plan, Step
from conche.stack import Deploy

__all__ = ["plan_recovery", "settle"]


def plan_recovery(records: Records, look: Look) -> tuple[Plan, Record | None]:
    """The steps that settle an interrupted release and leftovers, and the release that serves afterwards."""
    deploy, unfinished, current = look.deploy, records.unfinished, records.current
    steps: list[Step] = []
    serves = current
    if unfinished is not None:
        if _took_over(look, unfinished):
            serves = unfinished
            steps.append(Step("finish", f"release {unfinished.id}", "it was interrupted, and it serves already"))
        else:
            steps.append(Step("revert", f"release {unfinished.id}", "it was interrupted before it served"))
    if deploy.serves is not None:
        keep = serves.id if serves else ""
        for one in look.of(deploy.serves):
            if one.labels.get(RELEASE, "") != keep:
                steps.append(Step("remove", f"container {one.name}", f"left over from {_whose(one)}"))
            elif one.state != "running":
                steps.append(Step("start", f"container {one.name}", f"is {one.state}, and belongs to {keep}"))
    for one in _commands(look):
        steps.append(Step("remove", f"container {one.name}", "left over from a release command"))
    for one in containers.of_project(look.compose.engine, look.compose.project + "-trial"):
        steps.append(Step("remove", f"container {one.name}", "left over from an interrupted trial"))
    return Plan(tuple(steps)), serves


def settle(call: Invocation, records: Records, compose: Compose, deploy: Deploy, name: str) -> Records:
    """Settle what was left, and say so; the records, read anew."""
    rendered = compose.configuration().rendered if deploy.edge else {}
    look = Look(name, compose, deploy, rendered)
    plan, serves = plan_recovery(records, look)
    if not len(plan):
        return records
    unfinished = records.unfinished
    if unfinished is not None:
        call.output.say(f"{unfinished.id} was interrupted ({unfinished.who} on {unfinished.where}): settling it first")
    if deploy.edge is not None and look.of(deploy.edge):
        # Running containers first: the edge is only sent back to what answers.
        _start(look, plan)
        wanted = look.edge_configuration(call.root, serves.id if serves else NOTHING)
        edge = look.edge()
        if edge.serving() not in ("", wanted.release) or unfinished is not None:
            edge.place(wanted)
            edge.prove(wanted)
            edge.switch(wanted)
            edge.drained(deploy.drain)
    _clean(call.output.say, look, plan)
    if unfinished is not None:
        finished = serves is not None and serves.number == unfinished.number
        records.end(unfinished, _ending(Result.SUCCEEDED if finished else Result.INTERRUPTED))
    return open_records(call, compose)


def _start(look: Look, plan: Plan) -> None:
    """Start what belongs to the release that serves, and wait until it works."""
    wanted = {step.name for step in plan if step.action == "start"}
    stopped = [one for one in look.all() if one.name in wanted]
    for one in stopped:
        containers.start(look.compose.engine, one.id)
    if stopped:
        ids = {one.id for one in stopped}
        services = {one.service: Service(one.service, one.image, frozenset()) for one in stopped}
        health.wait(look.compose.engine, lambda: [one for one in look.all() if one.id in ids], services, timeout=60.0)


def _clean(say: Callable[[str], None], look: Look, plan: Plan) -> None:
    doomed = {step.name for step in plan if step.action == "remove"}
    engine = look.compose.engine
    for one in (*look.all(), *_commands(look)):
        if one.name in doomed:
            say(f"removing {one.name}, left over from {_whose(one)}")
            containers.remove(engine, one.id)
    trial.remove(look.compose)


def _took_over(look: Look, record: Record) -> bool:
    """Whether the edge sends requests to this release, and it works."""
    deploy = look.deploy
    if deploy.edge is None or deploy.serves is None or not look.of(deploy.edge):
        return False
    try:
        served = look.edge().serving()
    except ConcheError:
        return False
    found = look.of_release(deploy.serves, record.id)
    return (
        served == record.id
        and bool(found)
        and all(one.state == "running" and one.health != "unhealthy" for one in found)
    )


def _commands(look: Look) -> tuple[Container, ...]:
    """Containers of release commands, which Compose calls one-off."""
    return tuple(
        one for one in containers.one_off(look.compose.engine, look.compose.project) if one.name.endswith("-command")
    )


def _whose(one: Container) -> str:
    return one.labels.get(RELEASE) or "an earlier deployment"


def _ending(result: Result) -> Ending:
    ended = datetime.now(UTC).isoformat(timespec="milliseconds")
    return Ending(result.value, ended, 0.0, "" if result is Result.SUCCEEDED else "it was interrupted, and taken back")
