"""ci.runner.status: the runners, as the engine and the server see them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from conche.ci.forge import ServerRunner, connect
from conche.ci.runner.described import described
from conche.ci.runner.image import Images
from conche.ci.runner.registration import uuid_of
from conche.ci.workflows.runners import Runner
from conche.command import Invocation
from conche.engine import containers
from conche.errors import ConcheError
from conche.outcome import Outcome, Table
from conche.secret import Secret
from conche.session import open_compose

__all__ = ["status"]


def status(call: Invocation) -> Outcome:
    """Show each runner as the engine and the server see it; exit code 1 if one does not work."""
    found = described(call)
    compose = open_compose(call, found[0].environment)
    seen = {one.service: one for one in containers.of_project(compose.engine, compose.project)}
    known, warning = _known(call)
    old = Images.look(call, compose, found).outdated
    warnings = [f"{image} was built from other sources. Next: invoke ci.runner.up" for image in old]
    values = _values(call, found[0].environment)
    rows, bad = [], False
    for runner in found:
        container = seen.get(runner.service)
        state = container.state if container else "absent"
        health = container.health if container else "none"
        bad = bad or state != "running" or health == "unhealthy"
        there = "" if known is None else _there(runner, known, values)
        rows.append((runner.name, state, health, there, ", ".join(runner.labels)))
    columns = ("runner", "state", "health", "on the server", "labels")
    return Outcome(
        value=[dict(zip(columns, row, strict=True)) for row in rows],
        tables=[Table(columns, tuple(rows))],
        lines=["Next: invoke ci.runner.up"] if bad else [],
        warnings=[*warnings, *([warning] if warning else [])],
        exit_code=1 if bad else 0,
    )


def _known(call: Invocation) -> tuple[list[ServerRunner] | None, str]:
    """Return the runners that the server knows; None, with the reason, if it cannot be asked."""
    try:
        return connect(call).runners(), ""
    except ConcheError as error:
        return None, f"could not ask the server: {error.message}"


def _there(runner: Runner, known: Sequence[ServerRunner], values: Mapping[str, Secret]) -> str:
    """Say what the server reports of a runner: of the registration with its token, since two may share a name."""
    held = uuid_of(values.get(runner.secret))
    named = [one for one in known if one.name == runner.name]
    ours = [one for one in named if not held or not one.uuid or one.uuid == held]
    state = ours[0].state if ours else "unknown"
    return f"{state}, and {len(named) - 1} old" if len(named) > 1 else state


def _values(call: Invocation, environment: str) -> Mapping[str, Secret]:
    try:
        return call.vault.of(environment, create=False)
    except ConcheError:
        return {}
