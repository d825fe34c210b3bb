"""Carries out a plan with its progress shown, and reports what has become of the environment."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence
from dataclasses import replace

from conche.command import Invocation
from conche.engine import tailnet
from conche.engine.connection import Engine
from conche.env import report
from conche.env.contents import ignored
from conche.env.definitions import remember
from conche.env.observe import Observed, observe
from conche.errors import ConcheError, Partial, Refused
from conche.outcome import Outcome, Plan
from conche.session import Session

__all__ = ["carry_out", "nothing_to_do"]


def nothing_to_do(call: Invocation, name: str, seen: Observed) -> Outcome:
    """Report an environment that is as its files say.

    Raises:
        Refused: its files say nothing, since every service belongs to a profile that it does not have.
    """
    if not (seen.configuration.services or seen.containers):
        raise Refused(
            "no-service-selected",
            f"No service of {name} is to be up: each has a profile, and {name} has none of them.",
            looked_at=[f"environments.{name}.profiles in stack.yaml", "COMPOSE_PROFILES in .env"],
            next_command=f"add environments.{name}.profiles to stack.yaml, then: invoke env.up --env {name}",
        )
    seen = replace(seen, sidecars=tailnet.sidecars(Engine(call.environment(name).engine), seen.containers))
    well = "and healthy" if report.is_well(seen) else "as the files say"
    lines = (f"Nothing to do: it is up {well}.", *_urls(call, name))
    return Outcome(
        value=report.as_json(seen, call.environment(name)),
        tables=[report.table(seen)],
        lines=lines,
        warnings=[*report.strays(seen), *report.unreached(seen)],
    )


def carry_out(
    session: Session, seen: Observed, plan: Plan, timeout: float | None, *, asked: Collection[str] = ()
) -> Outcome:
    """Take the steps of a plan, showing progress on a live line, and report what has become of the environment.

    Args:
        seen: the environment as it was before.
        timeout: seconds to wait for health; None for what the healthchecks allow.
        asked: services that are to be up afterwards; default: all.

    Raises:
        Partial: with the report of the environment.
    """
    from conche.env.apply import Applier
    from conche.supply.build import Builder
    from conche.supply.fetch import fetch
    from conche.supply.own import own_images

    call, compose = session.call, session.compose
    own = own_images(call.stack, seen.name, compose, seen.configuration)
    environment = session.environment
    edge, serves = environment.deploy.edge, environment.deploy.serves
    with call.output.progress(f"{call.output.command} --env {seen.name}") as progress:
        applier = Applier(
            compose,
            seen,
            progress,
            build=lambda reference: Builder(call.vault, compose.engine, progress).build(own[reference]),
            fetch=lambda reference: fetch(call.vault, compose.engine, reference, progress),
            timeout=timeout,
            held=session.held,
            asked=asked,
            routes={edge: serves} if edge and serves else {},
            url=environment.health,
        )
        try:
            applier.apply(plan)
        except Partial as error:
            with contextlib.suppress(ConcheError):  # the first error is the one to show
                error.rest = _outcome(session, seen, plan)
            raise
    return _outcome(session, seen, plan, applier.passed)


def _outcome(session: Session, before: Observed, plan: Plan, passed: Collection[str] = ()) -> Outcome:
    """Observe an environment that was changed, and report it."""
    call, name = session.call, session.name
    seen = observe(call.stack, name, session.compose, passed=passed)
    seen = replace(seen, sidecars=tailnet.sidecars(session.engine, seen.containers))
    remember(call.stack.name, seen.configuration, seen.containers)
    return Outcome(
        value=report.as_json(seen, session.environment),
        changed=_state(before) != _state(seen),
        plan=plan,
        tables=[report.table(seen)],
        lines=_urls(call, name),
        warnings=[*report.strays(seen), *report.unreached(seen), *ignored(seen.configuration)],
    )


def _state(seen: Observed) -> object:
    """Return what a run may have changed: containers, when they started, images, networks."""
    return [(c.id, c.started_at, c.state) for c in seen.containers], seen.images, seen.missing_networks


def _urls(call: Invocation, name: str) -> Sequence[str]:
    url = call.environment(name).health
    return (f"{name}: {url}",) if url else ()
