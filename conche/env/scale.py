"""invoke env.scale: sets how many containers of a service run, and keeps that in the engine for the next release."""

from __future__ import annotations

from conche.command import Invocation
from conche.engine import swarm
from conche.engine.compose import Compose
from conche.env.locking import locked
from conche.env.observe import service_of
from conche.env.rollout.look import Look
from conche.env.rollout.scaling import Scaling, resume
from conche.env.rollout.view import compose_of, of_today, open_records, opened, require_whole
from conche.errors import NotFound, Refused, Restored
from conche.outcome import Action, Kind, Outcome, Plan, Step, Table
from conche.session import Session, open_compose

__all__ = ["scale"]

SETTLING = 120.0
"""Seconds within which a swarm has to reach the wanted number."""


def scale(call: Invocation, name: str, service: str, replicas: int) -> Outcome:
    """Run this many containers of a service; new ones have to become healthy, or are removed again.

    Raises:
        Refused: nothing was deployed yet, or two containers of the service cannot run side by side.
        Restored: the new ones do not become healthy.
    """
    environment = call.environment(name)
    files = open_compose(call, name)
    if replicas < 1:
        raise Refused(
            "too-few-replicas", "--replicas 0 would stop the service.", next_command=f"invoke env.down --env {name}"
        )
    with locked(call, files.engine, name):
        records = open_records(Session(call, name, files))
        current = records.current
        document = opened(call, records, current) if current else None
        if current is None or document is None:
            raise Refused("nothing-runs", f"{name} has no release yet.", next_command=f"invoke env.deploy --env {name}")
        require_whole(document, current)
        compose = compose_of(files, of_today(call, name, document))
        body = document.body["services"].get(service)
        if body is None:
            service_of(compose.configuration(hashed=False), service)
            raise NotFound("no-such-service", f"{current.id} has no service {service!r}.")
        if not environment.swarm and (body.get("container_name") or body.get("ports")):
            raise Refused(
                "service-not-scalable",
                f"{service} has a fixed name or publishes a port: a second one could not run beside it.",
                next_command="put it behind the edge: `deploy.serves` in stack.yaml",
            )
        if environment.swarm and (body.get("deploy") or {}).get("mode") == "global":
            raise Refused(
                "service-not-scalable",
                f"{service} has exactly one task on each node (deploy.mode: global).",
                next_command="docker node ls",
            )
        look = Look(name, compose, environment.deploy, document.body).with_probes_of(records)
        if not call.dry_run and not environment.swarm:
            resume(records, look, current.label, call.output.say)
        before = _count(look, service, swarmed=environment.swarm)
        plan = Plan(
            (Step(Action.SCALE, Kind.SERVICE, service, f"from {before} to {replicas}"),) if before != replicas else ()
        )
        if not call.dry_run and len(plan):
            with call.output.progress(f"scaling {service} from {before} to {replicas}"):
                if environment.swarm:
                    _scale_swarm(compose, service, before, replicas)
                    records.scale({**records.replicas(), service: replicas})
                else:
                    scaling = Scaling(look, records, service, current.label)
                    (scaling.grow if replicas > before else scaling.shrink)(replicas)
    return Outcome(
        value={"environment": name, "service": service, "before": before, "replicas": replicas},
        changed=len(plan) > 0 and not call.dry_run,
        plan=plan,
        tables=[] if call.dry_run else [Table(("service", "before", "now"), ((service, str(before), str(replicas)),))],
        lines=[] if len(plan) else [f"Nothing to do: {before} run."],
    )


def _count(look: Look, service: str, *, swarmed: bool) -> int:
    if swarmed:
        found = [one for one in swarm.services(look.compose.engine, look.compose.project) if one.name == service]
        return found[0].wanted if found else 0
    return len(look.of(service))


def _scale_swarm(compose: Compose, service: str, before: int, replicas: int) -> None:
    name = f"{compose.project}_{service}"
    swarm.replicate(compose.engine, name, replicas)
    if swarm.wait_settled(compose.engine, compose.project, service, SETTLING):
        return
    swarm.replicate(compose.engine, name, before)
    raise Restored(
        "scale-failed",
        f"{service} did not reach {replicas} within {SETTLING:g} s; it has {before} again.",
        next_command=f"docker service ps --no-trunc {name}",
    )
