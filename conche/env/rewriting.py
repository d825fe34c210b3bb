"""env.recover --as-it-is: rewrites, from what runs, what is kept of an environment and cannot be read."""

from __future__ import annotations

from collections.abc import Callable

from conche.command import Invocation
from conche.engine import swarm
from conche.engine.compose import Compose
from conche.env.locking import locked
from conche.env.rollout import members
from conche.env.rollout.look import Look
from conche.env.rollout.view import open_records
from conche.outcome import Action, Kind, Outcome, Plan, Step
from conche.session import Session, open_compose

__all__ = ["rewrite"]


def rewrite(call: Invocation, name: str) -> Outcome:
    """Take what runs for what is wanted, wherever that can no longer be read; nothing that runs is changed.

    Only the edge, if a command that was killed has had it name some containers, sends requests to all of them again.
    """
    environment, compose = call.environment(name), open_compose(call, name)
    with locked(call, compose.engine, name):
        records = open_records(Session(call, name, compose), readable=False)
        rendered = None if environment.swarm else compose.configuration(hashed=False).rendered
        look = Look(name, compose, environment.deploy, rendered)
        replicas = _swarm_replicas(compose) if environment.swarm else _replicas(look)
        on = not environment.swarm and look.configured_for_maintenance()
        several = ", ".join(f"{one} {count}" for one, count in replicas.items()) or "none has more than one"
        said = {
            "maintenance.json": f"the maintenance page is {'shown' if on else 'not shown'}",
            "scale.json": f"as many as run: {several}",
            "handover.json": f"none; see docker ps --all --filter label=com.docker.compose.project={compose.project}",
            "scaling.json": "none",
        }
        plan = Plan(tuple(Step(Action.WRITE, Kind.NOTE, file, said[file]) for file in records.damaged))
        if not call.dry_run and len(plan):
            if "scaling.json" in records.damaged and look.serving():
                members.serve_all(look)
            anew: dict[str, Callable[[], None]] = {
                "maintenance.json": lambda: records.maintain(on=on),
                "scale.json": lambda: records.scale(replicas),
                "handover.json": lambda: records.note_handover("", ()),
                "scaling.json": records.note_scaling,
            }
            for file in records.damaged:
                anew[file]()
    lines = [f"{step.name}: {step.cause}" for step in plan] or ["Nothing to do: everything that is kept can be read."]
    return Outcome(
        value={"environment": name, "written": [step.name for step in plan]},
        changed=bool(len(plan)) and not call.dry_run,
        plan=plan,
        lines=[] if call.dry_run else lines,
    )


def _replicas(look: Look) -> dict[str, int]:
    """Return service -> number of its containers, of those that have several."""
    every = [one.service for one in look.all() if one.state == "running"]
    return {service: every.count(service) for service in sorted(set(every)) if every.count(service) > 1}


def _swarm_replicas(compose: Compose) -> dict[str, int]:
    return {one.name: one.wanted for one in swarm.services(compose.engine, compose.project) if one.wanted > 1}
