"""env.status, env.up and env.down for an environment on a swarm."""

from __future__ import annotations

from collections.abc import Sequence

from conche.engine import networks, state, swarm
from conche.engine.compose import Compose
from conche.engine.swarm import Replicated
from conche.env.leaving import LeavingNode, let_go, log_out
from conche.env.rollout.change import Change
from conche.env.rollout.swarm_stack import swarm_changes
from conche.env.rollout.view import open_records, show_records
from conche.errors import Refused
from conche.outcome import Action, Kind, Outcome, Plan, Step, Table
from conche.release.records import Record, Records
from conche.session import Session
from conche.supply.reference import short

__all__ = ["SwarmObserved", "changes_on_swarm", "down_swarm", "look_at_swarm"]

COLUMNS = ("service", "state", "running", "image", "update")

GONE = 120.0
"""Seconds that the containers of a removed stack are given to end."""


class SwarmObserved:
    """What runs of a stack, for the table and the JSON."""

    def __init__(self, name: str, stack: str, services: tuple[Replicated, ...], release: str, interrupted: str) -> None:
        self.name, self.stack, self.services = name, stack, services
        self.release, self.interrupted = release, interrupted

    @property
    def well(self) -> bool:
        """Whether everything that should run does."""
        return bool(self.services) and all(one.settled for one in self.services) and not self.interrupted

    def as_json(self) -> dict[str, object]:
        """Return it as JSON, with the keys of an environment on Compose where they mean the same."""
        return {
            "environment": self.name,
            "up": bool(self.services),
            "healthy": self.well,
            "release": self.release or None,
            "interrupted": self.interrupted or None,
            "services": [
                {
                    "service": one.name,
                    "state": _state(one),
                    "running": one.running,
                    "wanted": one.wanted,
                    "image": one.image,
                    "update": one.update or None,
                    "errors": list(one.errors),
                    "unreachable_nodes": list(one.unreachable),
                }
                for one in self.services
            ],
        }

    def remarks(self) -> list[str]:
        """Report nodes that do not answer, with what ran there: nobody knows whether it still does."""
        lost: dict[str, list[str]] = {}
        for one in self.services:
            for node in one.unreachable:
                lost.setdefault(node, []).append(one.name)
        return [
            f"{self.name}: node {node} does not answer; not counting what ran there: {', '.join(names)}"
            for node, names in sorted(lost.items())
        ]

    def table(self) -> Table:
        """Return it as a table for people."""
        rows = tuple(
            (
                one.name,
                _state(one),
                f"{one.running} of {one.wanted}" + (f", {one.done} done" if one.done else ""),
                short(one.image),
                one.message or one.update or "-",
            )
            for one in self.services
        )
        release = f", release {self.release}" if self.release else ""
        return Table(COLUMNS, rows, title=f"{self.name} ({self.stack} on a swarm{release})")


def _state(one: Replicated) -> str:
    if one.settled:
        return "done" if one.done and not one.running else "running"
    return "failed" if one.reverted or one.broken else "starting"


def look_at_swarm(session: Session) -> SwarmObserved:
    """Look at what runs of an environment on its swarm.

    Raises:
        Unreachable: the engine is no manager of a swarm.
    """
    found = swarm.services(session.engine, session.compose.project)
    records = show_records(session)
    current, unfinished = records.current, records.unfinished
    return SwarmObserved(
        session.name,
        session.compose.project,
        found,
        current.id if current and found else "",
        unfinished.id if unfinished else "",
    )


def see_known(found: Sequence[Replicated], records: Records, stack: str, instead: str) -> None:
    """Refuse a stack with services that belong to no release recorded here.

    Args:
        instead: what to type if this stack is meant all the same.

    Raises:
        Refused: somebody else runs it: made by hand, or through another manager node.
    """
    known = {service for entry in records.entries if entry.record for service in entry.record.services}
    strange = [one for one in found if one.name not in known]
    if strange:
        raise Refused(
            "stack-not-ours",
            f"The stack {stack} is running, but not all of it was made by a release recorded on this manager.",
            looked_at=[f"{one.name}: {one.running} of {one.wanted} run {short(one.image)}" for one in strange],
            next_command=f"docker stack services {stack}    # whose is it?\n{instead}",
        )


def changes_on_swarm(compose: Compose, records: Records, record: Record, *, forced: bool) -> tuple[Change, ...]:
    """Decide what becomes of each service in a release.

    Args:
        forced: even if nothing changes, or somebody else has made the stack; a rollback never takes one over.

    Raises:
        Refused: somebody else runs the stack.
    """
    found = swarm.services(compose.engine, compose.project)
    if not forced or record.of is not None:
        taken = f"invoke env.deploy --env {record.environment} --force    # takes it over; if that fails, restores it"
        see_known(found, records, compose.project, taken)
    return swarm_changes(found, record, records.current, forced=forced)


def down_swarm(session: Session, doomed: Sequence[str], leaving: Sequence[LeavingNode], *, volumes: bool) -> Outcome:
    """Remove an environment's stack; the records of its releases stay unless the volumes go.

    Args:
        doomed: volumes of this node to delete, with their data.
        leaving: nodes of a tailnet with their state in one of these.
        volumes: the data is meant too; volumes of the same names on other nodes can only be deleted by their engines.
    """
    call, name, compose = session.call, session.name, session.compose
    found = swarm.services(compose.engine, compose.project)
    see_known(found, open_records(session), compose.project, f"docker stack rm {compose.project}")
    elsewhere = sorted(node.name for node in swarm.others(compose.engine)) if volumes else []
    steps = [one.step for one in leaving if one.step]
    steps += [Step(Action.STOP, Kind.SERVICE, one.name, "asked for") for one in found]
    steps += [Step(Action.DELETE, Kind.VOLUME, one, "--volumes", destroys=True) for one in doomed]
    plan = Plan(tuple(steps))
    where = f"volumes on other nodes stay ({', '.join(elsewhere)}): docker --host ssh://NODE volume ls"
    left = [where] if elsewhere else []
    if call.dry_run or not len(plan):
        return Outcome(plan=plan, lines=() if len(plan) else (f"Nothing to do: {name} is down.",), warnings=left)
    with call.output.progress(f"stopping {name}"):
        left += [said for said in (log_out(compose.engine, one, hold=True) for one in leaving) if said]
        try:
            swarm.remove(compose.engine, compose.project)
        except BaseException:
            let_go(compose.engine, leaving)
            raise
        gone = swarm.wait_gone(compose.engine, compose.project, GONE)
        if not gone:
            left.append("some containers take longer to stop; their volumes stay until then")
        deleted = list(doomed) if gone else []
        for one in deleted:
            if one == state.volume_name(compose.project):
                state.forget(compose.engine, compose.project)
            else:
                networks.remove_volume(compose.engine, one)
    done = [step for step in plan if step.kind != Kind.VOLUME or step.name in deleted]
    return Outcome(
        value={"environment": name, "deleted_volumes": deleted},
        changed=True,
        plan=plan,
        tables=[Table(("what", "state"), tuple((step.subject, "done") for step in done), title=f"{name} is down")],
        lines=[one.remark for one in leaving],
        warnings=left,
    )
