"""invoke env.networks"""

from __future__ import annotations

from collections.abc import Sequence

from conche.command import Invocation
from conche.engine import networks as on_engine
from conche.engine.compose import Compose
from conche.env import on_swarm
from conche.env.observe import Observed, observe
from conche.env.unread import with_or_without_files
from conche.outcome import Action, Kind, Outcome, Plan, Step, Table

__all__ = ["networks"]


def networks(call: Invocation, name: str, *, create: bool) -> Outcome:
    """List the networks of an environment and their members; with `create`, create external ones that are missing."""
    on_swarm.require_compose(
        call,
        name,
        "its networks are overlays, and a node sees only its own members of them",
        "docker network ls --filter driver=overlay\ndocker network create --driver overlay --attachable NETWORK",
    )
    return with_or_without_files(call, name, lambda compose: _networks(call, name, compose, create=create))


def _networks(call: Invocation, name: str, compose: Compose, *, create: bool) -> Outcome:
    seen = observe(call.stack, name, compose)
    plan = Plan(
        tuple(Step(Action.CREATE, Kind.NETWORK, one, "no such network") for one in seen.missing_networks if create)
    )
    if call.dry_run:
        return Outcome(plan=plan)
    for step in plan:
        on_engine.create(compose.engine, step.name)
    present = on_engine.names(compose.engine)
    found = {
        one: on_engine.members(compose.engine, one) if one in present else None
        for one in (*seen.configuration.external_networks, *_own_networks(seen, compose))
    }
    rows = tuple(
        (one, "missing" if members is None else "found", ", ".join(members or ())) for one, members in found.items()
    )
    missing = [one for one, members in found.items() if members is None and one in seen.configuration.external_networks]
    return Outcome(
        value=[
            {"network": one, "found": members is not None, "containers": members or []}
            for one, members in found.items()
        ],
        changed=len(plan) > 0,
        plan=plan,
        tables=[Table(("network", "state", "containers"), rows)],
        lines=[f"Next: invoke env.networks --env {name} --create"] if missing else [],
        exit_code=1 if missing else 0,
    )


def _own_networks(seen: Observed, compose: Compose) -> Sequence[str]:
    if compose.unread:
        return on_engine.made_by(compose.engine, compose.project).networks
    rendered = (seen.configuration.rendered.get("networks") or {}).values()
    return [network["name"] for network in rendered if not network.get("external")]
