"""env.logs and env.exec on a swarm, and the refusal of what a swarm cannot do, with what to type instead."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

from conche.command import Invocation
from conche.engine import swarm, task_containers
from conche.engine.compose import Compose
from conche.env.observe import service_of
from conche.env.report import nothing_written
from conche.errors import Refused
from conche.outcome import Outcome
from conche.output import at_terminal
from conche.process import Captured, replace, run
from conche.session import Session

__all__ = ["execute", "logs", "require_compose"]


def require_compose(call: Invocation, name: str, why: str, instead: str) -> None:
    """Refuse what a swarm cannot do.

    Args:
        why: why it cannot.
        instead: what to type there.

    Raises:
        NotFound: there is no such environment.
        Refused: it runs on a swarm.
    """
    if call.environment(name).swarm:
        _refuse(name, why, instead)


def _refuse(name: str, why: str, instead: str) -> NoReturn:
    raise Refused("not-on-swarm", f"{name} runs on a swarm: {why}.", next_command=instead)


def logs(session: Session, *, follow: bool, tail: int, service: str | None) -> Outcome:
    """Show what the tasks write, on whatever node, service by service."""
    call, name, compose = session.call, session.name, session.compose
    found = [one.name for one in swarm.services(compose.engine, compose.project)]
    if service is not None:
        service_of(compose.configuration(), service)
    if not found or (service and service not in found):
        raise Refused(
            "nothing-runs",
            f"{service or name} is not on the swarm.",
            next_command=f"invoke env.up --env {name}",
        )
    wanted = [service] if service else found
    if follow and len(wanted) > 1:
        _refuse(
            name,
            "only one service can be followed at a time",
            f"invoke env.logs --env {name} --follow --service {wanted[0]}",
        )
    options = ["--tail", str(tail), *(["--follow"] if follow else [])]
    lines: list[str] = []
    for one in wanted:
        argv = ["docker", "service", "logs", *options, f"{compose.project}_{one}"]
        lines += _shown(call, compose, argv)
    if call.output.as_json:
        return Outcome(value=lines)
    return Outcome(lines=[] if lines else [nothing_written(name, service)])


def _shown(call: Invocation, compose: Compose, argv: Sequence[str]) -> list[str]:
    """Print a log as it comes and return its last line; with --json return all lines instead."""
    environment = compose.engine.cli_environment()
    if call.output.as_json:
        done = run(argv, extra_env=environment, redact=compose.redact).require("reading the logs")
        # What a container writes to its error stream arrives on the CLI's.
        return [*done.stdout.lines(), *done.stderr.lines()]

    last: list[str] = []

    def show(line: Captured) -> None:
        last[:] = [str(line)]
        call.output.line(str(line))

    run(argv, extra_env=environment, redact=compose.redact, on_line=show).require("reading the logs")
    return last


def execute(call: Invocation, compose: Compose, service: str) -> Outcome:
    """Run the command after `--` in a task's container on this node, and end with its exit code."""
    service_of(compose.configuration(), service)
    container = task_containers.of_service(compose.engine, compose.project, service, "a command inside it")
    terminal = at_terminal(sys.stdin, sys.stdout)
    options = ["--interactive", *(["--tty"] if terminal else [])]
    argv = ("docker", "exec", *options, container.id, *call.remainder)
    environment = compose.engine.cli_environment()
    if call.output.as_json:
        done = run(argv, extra_env=environment, redact=compose.redact)
        value = {"exit_code": done.exit_code, "stdout": str(done.stdout), "stderr": str(done.stderr)}
        return Outcome(value=value, exit_code=done.exit_code)
    return replace(argv, dict(environment))
