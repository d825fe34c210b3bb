"""invoke env.exec"""

from __future__ import annotations

import sys

from conche.command import Invocation
from conche.env import on_swarm
from conche.env.unread import as_it_runs, containers_of
from conche.errors import Refused
from conche.outcome import Outcome
from conche.output import at_terminal
from conche.process import replace, run
from conche.session import open_compose

__all__ = ["exec_"]


def exec_(call: Invocation, name: str, service: str) -> Outcome:
    """Run the command after `--` inside a container, and end with its exit code."""
    swarmed = call.environment(name).swarm
    if not call.remainder:
        raise Refused(
            "no-command",
            "There is no command after `--`.",
            next_command=f"invoke env.exec --env {name} --service {service} -- python --version",
        )
    if swarmed:
        return on_swarm.execute(call, open_compose(call, name), service)
    compose = as_it_runs(call, name, service)
    if not any(container.state == "running" for container in containers_of(compose, service)):
        raise Refused("not-running", f"{service} is not running.", next_command=f"invoke env.up --env {name}")
    terminal = at_terminal(sys.stdin, sys.stdout)
    argv = compose.argv("exec", *([] if terminal else ["--no-TTY"]), service, *call.remainder)
    if call.output.as_json:
        completed = run(argv, extra_env=compose.environment(), redact=compose.redact)
        value = {"exit_code": completed.exit_code, "stdout": str(completed.stdout), "stderr": str(completed.stderr)}
        return Outcome(value=value, exit_code=completed.exit_code)
    return replace(argv, compose.environment())
