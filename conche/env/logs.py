"""invoke env.logs"""

from __future__ import annotations

import sys

from conche.command import Invocation
from conche.env import on_swarm
from conche.env.report import nothing_written
from conche.env.unread import as_it_runs, containers_of
from conche.errors import Refused
from conche.outcome import Outcome
from conche.output import at_terminal
from conche.process import Captured
from conche.session import Session, open_compose

__all__ = ["logs"]

CLEAR_LINE = "\x1b[2K"
"""What Compose 2.26 writes before each line of a log, on a terminal or not, whatever --ansi says."""


def logs(call: Invocation, name: str, *, follow: bool, tail: int, service: str | None) -> Outcome:
    """Show what the containers write, from the last `tail` lines of each on."""
    swarmed = call.environment(name).swarm
    if follow and call.output.as_json:
        raise Refused(
            "json-has-an-end", "--json and --follow cannot be combined.", next_command="invoke env.logs --follow"
        )
    if swarmed:
        return on_swarm.logs(Session(call, name, open_compose(call, name)), follow=follow, tail=tail, service=service)
    compose = as_it_runs(call, name, service)
    if service and not containers_of(compose, service):
        return Outcome(lines=[nothing_written(name, service)], value=[] if call.output.as_json else None)
    plain = [] if at_terminal(sys.stdout) else ["--ansi", "never"]
    argv = compose.argv(
        *plain, "logs", "--tail", str(tail), *(["--follow"] if follow else []), *([service] if service else [])
    )
    if call.output.as_json:
        lines = compose.call(argv).require("reading the logs").stdout.lines()
        return Outcome(value=[line.removeprefix(CLEAR_LINE) for line in lines])
    unwanted = "" if at_terminal(sys.stdout) else CLEAR_LINE

    shown = 0

    def show(line: Captured) -> None:
        nonlocal shown
        shown += 1
        call.output.line(str(line).removeprefix(unwanted))

    compose.call(argv, on_line=show).require("reading the logs")
    return Outcome(lines=[] if shown else [nothing_written(name, service)])
