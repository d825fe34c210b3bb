"""invoke env.up"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from conche.command import Invocation
from conche.engine.builds import built_outside
from conche.engine.projects import made_from_others
from conche.env import report, secret_files
from conche.env.carry_out import carry_out, nothing_to_do
from conche.env.locking import everywhere, here
from conche.env.observe import Observed, observe, service_of
from conche.env.plan import plan_up
from conche.env.recover import settle_killed
from conche.env.request import UpRequest
from conche.env.standing import has_older_key, standing
from conche.outcome import Action, Kind, Outcome, Plan
from conche.session import Session, open_compose
from conche.vault.values import require_with, unsealed_files

__all__ = ["converge", "up"]


def up(call: Invocation, name: str, *, build: bool, timeout: float | None, local: bool = False) -> Outcome:
    """Bring an environment up; a second run finds nothing to do.

    Args:
        local: if this deploys, deploy what the engine has, as `env.deploy --local` does.
    """
    return converge(call, name, UpRequest(build, timeout, local=local))


def converge(call: Invocation, name: str, request: UpRequest) -> Outcome:
    """Make an environment, or only one service of it, what its files or its release say.

    A release that was killed is settled first.
    """
    if call.environment(name).managed_by_releases:
        from conche.env.released import up_released

        return up_released(call, name, request)
    settled = settle_killed(call, name)
    if settled is None:
        return _up_without_edge(call, name, request)
    if call.dry_run:
        # What is to be done after that is only known then.
        return settled
    done = _up_without_edge(call, name, request)
    plan = Plan((*(settled.plan or ()), *(done.plan or ())))
    return replace(done, changed=True, plan=plan, lines=[*settled.lines, *done.lines])


def _up_without_edge(call: Invocation, name: str, request: UpRequest) -> Outcome:
    """Make an environment without an edge, or only one service of it, what its files say, or its last release."""
    secrets = call.vault.of(name)
    compose = open_compose(call, name, secrets)
    require_with(call.stack, name, compose.variables.get("COMPOSE_PROFILES", ""), secrets)
    with here(call, name) as held:
        session = Session(call, name, compose, held)
        changed, coming = secret_files.write(call, name, secrets)
        if not (request.build or request.only or changed - unsealed_files(call.stack, call.root, name).keys()):
            done = _up_as_it_stands(session, changed, request.timeout)
            if done is not None:
                return done
        return _up_by_files(session, request, changed, coming)


def _up_as_it_stands(session: Session, changed: Collection[Path], timeout: float | None) -> Outcome | None:
    """Bring up what the files and the last release agree on, often by doing nothing; None if they differ, or none is.

    Args:
        changed: files of secrets that no release keeps which this command has written, or would.
    """
    seen = standing(session, changed)
    if seen is None:
        return None
    if report.is_well(seen) and not has_older_key(session, seen, changed):
        return nothing_to_do(session.call, session.name, seen)
    if not seen.containers:
        return None
    from conche.env.released import up_as_released

    return up_as_released(session, timeout)


def _up_by_files(session: Session, request: UpRequest, changed: Collection[Path], coming: Collection[Path]) -> Outcome:
    """Make an environment, or only one service of it, what its files say.

    Args:
        changed: secret files that this command has written, or would.
        coming: secret files that are there then.
    """
    # Imported here because only a change needs it: finding nothing to do is the commonest run.
    from conche.env import preflight

    call, name, compose = session.call, session.name, session.compose
    seen, plan = _planned(session, request, changed)
    preflight.check(seen, plan, compose, coming, call.stack.secrets)
    for other in made_from_others(seen.containers, compose.files) if session.engine.is_local and len(plan) else ():
        call.output.say(
            f"warning: {name} was brought up from {other}, and this checkout takes it over. For a second one beside"
            " it, change `name` and the ports in stack.yaml"
        )
    building = any((step.action, step.kind) == (Action.BUILD, Kind.IMAGE) for step in plan)
    for warning in built_outside(seen.configuration.rendered, call.root) if building else ():
        call.output.say(f"warning: {warning}")
    if call.dry_run:
        return Outcome(plan=plan)
    if not len(plan):
        return nothing_to_do(call, name, seen)
    with everywhere(call, session.engine, name):
        # Somebody else may have been at work until just now.
        seen, plan = _planned(session, request, changed)
        return carry_out(session, seen, plan, request.timeout, asked=[request.only] if request.only else ())


def _planned(session: Session, request: UpRequest, changed: Collection[Path]) -> tuple[Observed, Plan]:
    """Return the environment as it is, and the steps that make it what its files say."""
    seen = observe(session.call.stack, session.name, session.compose)
    if request.only is not None:
        service_of(seen.configuration, request.only)
    stale = secret_files.having_older(session, seen, changed)
    return seen, plan_up(seen, build=request.build, only=request.only, stale=stale)
