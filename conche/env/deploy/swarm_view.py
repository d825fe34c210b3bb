"""env.status, env.up and env.down of an environment on a swarm."""

from __future__ import annotations

from conche.command import Invocation
from conche.engine import swarm
from conche.engine.compose import Compose
from conche.engine.swarm import Replicated
from conche.env.deploy.view import open_records
from conche.images.reference import short
from conche.outcome import Outcome, Plan, Step, Table

__all__ = ["SwarmObserved", "down_swarm", "look_at_swarm"]

COLUMNS = ("service", "state", "running", "image", "update")

GONE = 120.0
"""Seconds that the containers of a stack which is removed are given to end."""


class SwarmObserved:
    """What runs of a stack, as the table and the JSON show it."""

    def __init__(self, name: str, stack: str, services: tuple[Replicated, ...], release: str, interrupted: str) -> None:
        self.name, self.stack, self.services = name, stack, services
        self.release, self.interrupted = release, interrupted

    @property
    def well(self) -> bool:
        """Everything that shall run does."""
        return bool(self.services) and all(one.settled for one in self.services) and not self.interrupted

    def as_json(self) -> dict[str, object]:
        """The same keys as an environment on Compose, where they mean the same."""
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
                }
                for one in self.services
            ],
        }

    def table(self) -> Table:
        """For people."""
        rows = tuple(
            (
                one.name,
                _state(one),
                f"{one.running} of {one.wanted}",
                short(one.image),
                one.message or one.update or "-",
            )
            for one in self.services
        )
        release = f", release {self.release}" if self.release else ""
        return Table(COLUMNS, rows, title=f"{self.name} ({self.stack} on a swarm{release})")


def _state(one: Replicated) -> str:
    return "running" if one.settled else "starting" if not one.reverted else "failed"


def look_at_swarm(call: Invocation, name: str, compose: Compose) -> SwarmObserved:
    """What runs of an environment on its swarm.

    Raises:
        Unreachable: the engine is no manager of a swarm.
    """
    swarm.require(compose.engine)
    found = swarm.services(compose.engine, compose.project)
    records = open_records(call, compose)
    current, unfinished = records.current, records.unfinished
    return SwarmObserved(
        name, compose.project, found, current.id if current and found else "", unfinished.id if unfinished else ""
    )


def down_swarm(call: Invocation, name: str, compose: Compose) -> Outcome:
    """Remove an environment's stack; its volumes stay, and so does what is known of its releases."""
    found = swarm.services(compose.engine, compose.project)
    plan = Plan(tuple(Step("stop", f"service {one.name}", "asked for") for one in found))
    if call.dry_run or not len(plan):
        return Outcome(plan=plan, lines=() if len(plan) else (f"Nothing to do: {name} is down.",))
    with call.output.progress(f"stopping {name}"):
        swarm.remove(compose.engine, compose.project)
        gone = swarm.wait_gone(compose.engine, compose.project, GONE)
    return Outcome(
        value={"environment": name, "deleted_volumes": []},
        changed=True,
        plan=plan,
        tables=[Table(("what", "state"), tuple((step.subject, "done") for step in plan), title=f"{name} is down")],
        warnings=[] if gone else ["some containers take longer to end; they are not waited for"],
    )
