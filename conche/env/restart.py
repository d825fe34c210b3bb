"""invoke env.restart"""

from __future__ import annotations

from conche.command import Invocation
from conche.env import on_swarm
from conche.env.carry_out import carry_out
from conche.env.locking import everywhere, here
from conche.env.observe import observe, service_of
from conche.env.plan import followed
from conche.errors import Refused
from conche.outcome import Action, Kind, Outcome, Plan, Step
from conche.session import Session, open_compose

__all__ = ["restart"]


def restart(call: Invocation, name: str, service: str | None, *, timeout: float | None) -> Outcome:
    """Restart the containers of an environment, and wait until they work."""
    on_swarm.require_compose(
        call,
        name,
        "it does not restart tasks but replaces them",
        f"docker service update --force {call.stack.project(name)}_{service or 'SERVICE'}\n"
        f"invoke env.deploy --env {name} --force",
    )
    compose = open_compose(call, name)
    with here(call, name) as held:
        seen = observe(call.stack, name, compose)
        wanted = [service_of(seen.configuration, service).name] if service else list(seen.configuration.services)
        asked = [Step(Action.RESTART, Kind.SERVICE, one, "asked for") for one in wanted if seen.of(one)]
        plan = Plan(tuple(followed(seen, asked)))
        if not len(plan):
            raise Refused("nothing-runs", f"{name} is not up.", next_command=f"invoke env.up --env {name}")
        if call.dry_run:
            return Outcome(plan=plan)
        with everywhere(call, compose.engine, name):
            return carry_out(Session(call, name, compose, held), seen, plan, timeout, asked=wanted)
