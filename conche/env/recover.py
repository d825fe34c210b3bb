"""invoke env.recover"""

from __future__ import annotations

from dataclasses import replace

from conche.command import Invocation
from conche.engine import state
from conche.engine.compose import Compose
from conche.engine.connection import Engine
from conche.env.locking import locked
from conche.env.rollout.look import Look
from conche.env.rollout.recover import plan_recovery, settle
from conche.env.rollout.swarm_settling import settle_swarm
from conche.env.rollout.view import killed, open_records
from conche.locking import readers
from conche.outcome import Action, Kind, Outcome, Plan, Step, Table
from conche.release.records import Records
from conche.session import Session, open_compose

__all__ = ["recover", "settle_killed"]


def recover(call: Invocation, name: str) -> Outcome:
    """Settle a release that was killed: finish it if it already serves, else take it back; remove leftovers."""
    environment = call.environment(name)
    compose = open_compose(call, name)
    compose = replace(compose, files=(*compose.files, *(call.root / one for one in environment.deploy.overlay)))
    if environment.swarm:
        return _recover_swarm(call, compose, name)
    with locked(call, compose.engine, name):
        records = open_records(Session(call, name, compose))
        rendered = compose.configuration(hashed=False).rendered
        look = Look(name, compose, environment.deploy, rendered).with_probes_of(records)
        recovery = plan_recovery(records, look)
        if not call.dry_run:
            records = settle(call, records, look, strict=True)
        wrong = "" if records.maintained or not recovery.serves else look.wrong(recovery.serves)
    plan, current = recovery.plan, records.current
    serves = current.id if current and current.label == recovery.serves else recovery.serves
    rows = tuple((step.action, step.subject, step.cause) for step in plan)
    said = f"{serves} serves." if serves else "Nothing serves."
    said = f"{serves} serves, but answers its users {wrong}. Next: invoke env.logs --env {name}" if wrong else said
    return Outcome(
        exit_code=1 if wrong and not call.dry_run else 0,
        value={"environment": name, "release": serves or None},
        changed=len(plan) > 0 and not call.dry_run,
        plan=plan,
        tables=[Table(("action", "what", "because"), rows)] if rows and not call.dry_run else [],
        lines=[] if call.dry_run else [f"Nothing to recover. {said}" if not len(plan) else said],
    )


def settle_killed(call: Invocation, name: str) -> Outcome | None:
    """Recover an environment whose release was killed; return None if none was."""
    engine, project = Engine(call.environment(name).engine), call.stack.project(name)
    if not state.kept(engine, project):
        return None
    records = Records(state.State(engine, project, readers(call.stack, engine, project)))
    return recover(call, name) if killed(records, Compose(engine, project, ())) else None


def _recover_swarm(call: Invocation, compose: Compose, name: str) -> Outcome:
    with locked(call, compose.engine, name):
        records = open_records(Session(call, name, compose))
        unfinished = records.unfinished
        steps = (Step(Action.SETTLE, Kind.RELEASE, unfinished.id, "it was interrupted"),) if unfinished else ()
        if unfinished is not None and not call.dry_run:
            records = settle_swarm(call, records, Look(name, compose, call.environment(name).deploy, {}), strict=True)
    current = records.current
    said = f"{current.id} serves." if current else "Nothing serves."
    return Outcome(
        value={"environment": name, "release": current.id if current else None},
        changed=bool(steps) and not call.dry_run,
        plan=Plan(steps),
        lines=[] if call.dry_run else [said if steps else f"Nothing to recover. {said}"],
    )
