"""invoke env.maintenance"""

from __future__ import annotations

from conche.command import Invocation
from conche.env import on_swarm
from conche.env.locking import locked
from conche.env.rollout.look import Look
from conche.env.rollout.route import template_of
from conche.env.rollout.view import open_records
from conche.errors import Refused
from conche.outcome import Action, Kind, Outcome, Plan, Step
from conche.session import Session, open_compose

__all__ = ["maintenance"]


def maintenance(call: Invocation, name: str, *, on: bool, off: bool) -> Outcome:
    """Answer every request with the maintenance page, or serve the release again."""
    if on == off:
        raise Refused(
            "options-exclude-each-other", "Give either --on or --off.",
            next_command=f"invoke env.maintenance --env {name} --on",
        )  # fmt: skip
    deploy = call.environment(name).deploy
    if deploy.edge is None:
        raise Refused("no-edge", f"{name} has no edge in stack.yaml to show a page.")
    compose = open_compose(call, name)
    on_swarm.require_compose(
        call,
        name,
        "there, only a release can change what the edge serves",
        f"docker service scale {compose.project}_{deploy.serves}=0    # the edge answers 502 from then on",
    )
    with locked(call, compose.engine, name):
        records = open_records(Session(call, name, compose))
        look = Look(name, compose, deploy, compose.configuration(hashed=False).rendered)
        serves = look.serving()
        if not serves:
            raise Refused(
                "nothing-runs", f"The edge of {name} is not running.", next_command=f"invoke env.up --env {name}"
            )
        words = f"{name} shows the maintenance page." if on else f"{name} serves {serves}."
        if records.maintained == on:
            return Outcome(value={"environment": name, "maintenance": on}, lines=[f"Nothing to do: {words}"])
        plan = Plan((Step(Action.SWITCH, Kind.EDGE, f"to {'the maintenance page' if on else serves}", "asked for"),))
        if call.dry_run:
            return Outcome(plan=plan)
        template = template_of(call, records, look, serves)
        edge, wanted = look.edge(), look.edge_configuration(template, serves, maintenance=on)
        edge.place(wanted)
        edge.prove(wanted)
        edge.switch(wanted)
        # Kept for the releases to come, and for an edge that is made anew.
        records.maintain(on=on)
    return Outcome(value={"environment": name, "maintenance": on}, changed=True, plan=plan, lines=[words])
