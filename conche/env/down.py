"""env.down: stops an environment, and deletes its volumes only with --volumes and confirmation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from conche.command import Invocation
from conche.engine import containers, networks, state, task_containers
from conche.engine.compose import Compose
from conche.env.confirming import confirm_on
from conche.env.leaving import LeavingNode, log_out, nodes
from conche.env.locking import locked
from conche.env.observe import observe
from conche.env.plan import plan_down
from conche.env.unread import with_or_without_files
from conche.outcome import Outcome, Table
from conche.session import Session, forget_profiles

__all__ = ["down", "leaving_here"]


def down(call: Invocation, name: str, *, volumes: bool, confirm: str | None) -> Outcome:
    """Stop and remove an environment's containers, and with `volumes` its data."""
    return with_or_without_files(
        call, name, lambda compose: _down(call, name, compose.with_every_profile(), volumes=volumes, confirm=confirm)
    )


def _down(call: Invocation, name: str, compose: Compose, *, volumes: bool, confirm: str | None) -> Outcome:
    environment = call.environment(name)
    if environment.swarm:
        from conche.env.rollout.swarm_view import down_swarm

        with locked(call, compose.engine, name):
            configuration = compose.configuration(hashed=False)
            doomed = _doomed(compose, configuration.volumes) if volumes else ()
            leaving = leaving_here(compose, configuration.rendered, doomed) if doomed else ()
            if (environment.protected or doomed) and not call.dry_run:
                _ask(call, name, doomed, leaving, confirm)
            return down_swarm(Session(call, name, compose), doomed, leaving, volumes=volumes)
    with locked(call, compose.engine, name):
        seen = observe(call.stack, name, compose, asks=False)
        doomed = _doomed(compose, seen.configuration.volumes) if volumes else ()
        strays = containers.one_off(compose.engine, compose.project)
        made = networks.made_by(compose.engine, compose.project).networks
        alone = () if seen.containers or strays else made  # what is left of one that never came up
        leaving = nodes(compose.engine, seen.configuration.rendered, seen.containers, doomed) if doomed else ()
        plan = plan_down(seen, doomed, strays, alone, [one.step for one in leaving if one.step])
        if call.dry_run or not len(plan):
            return Outcome(plan=plan, lines=() if len(plan) else (f"Nothing to do: {name} is down.",))
        if environment.protected or doomed:
            _ask(call, name, doomed, leaving, confirm)
        for container in seen.leftovers:
            containers.remove(compose.engine, container.id)
        with call.output.progress(f"stopping {name}") as progress:
            failed = [said for said in (log_out(compose.engine, one) for one in leaving) if said]
            compose.call(compose.down(volumes=volumes), on_line=progress.detail).require(f"stopping {name}")
        if volumes:
            state.forget(compose.engine, compose.project)
            forget_profiles(call.stack, name)
    rows = tuple((step.subject, "done") for step in plan)
    return Outcome(
        value={"environment": name, "deleted_volumes": list(doomed)},
        changed=True,
        plan=plan,
        tables=[Table(("what", "state"), rows, title=f"{name} is down")],
        lines=[one.remark for one in leaving],
        warnings=failed,
    )


def _doomed(compose: Compose, declared: Sequence[str]) -> tuple[str, ...]:
    """Return those of the environment's volumes that this engine has, the one with the records of its releases last."""
    return networks.volumes(compose.engine, (*declared, state.volume_name(compose.project)))


def leaving_here(compose: Compose, rendered: Mapping[str, Any], doomed: Sequence[str]) -> tuple[LeavingNode, ...]:
    """Return the nodes of a tailnet that lose a volume of this engine; their containers are those of tasks."""
    found = task_containers.of_stack(compose.engine, compose.project)
    return nodes(compose.engine, rendered, [replace(one, service=service) for service, one in found], doomed)


def _ask(
    call: Invocation, name: str, doomed: Sequence[str], leaving: Sequence[LeavingNode], confirmed: str | None
) -> None:
    for volume in doomed:
        call.output.say(f"volume {volume} and the data in it will be deleted")
    for node in leaving:
        call.output.say(node.warning)
    question = f"Environment {name} goes down" + (" and its data is deleted." if doomed else ".")
    confirm_on(call, name, question, confirmed)
