"""env.logs, env.config, env.exec: what an environment says, is made of, and lets one do inside."""

from __future__ import annotations

import re
import sys
from typing import Any

from conche.command import Invocation
from conche.env.observe import observe, open_compose, service_of
from conche.errors import Refused
from conche.outcome import Outcome
from conche.process import replace, run
from conche.secret import MASK

__all__ = ["config", "execute", "logs"]

SECRET_NAME = re.compile(r"(token|key|password|passwd|secret|credential|authkey)", re.IGNORECASE)
"""Names of environment variables whose values are not shown."""


def logs(call: Invocation, name: str, *, follow: bool, tail: int, service: str | None) -> Outcome:
    """What the containers write, the last `tail` lines of each."""
    call.environment(name)
    compose = open_compose(call.stack, name, call.root)
    if service:
        service_of(compose.configuration(), service)
    # Without a terminal Compose still clears each line it writes.
    plain = [] if sys.stdout.isatty() else ["--ansi", "never"]
    argv = compose.argv(
        *plain, "logs", "--tail", str(tail), *(["--follow"] if follow else []), *([service] if service else [])
    )
    if call.output.as_json:
        if follow:
            raise Refused(
                "json-has-an-end", "--json and --follow exclude each other.", next_command="invoke env.logs --follow"
            )
        return Outcome(value=compose.call(argv).require("reading the logs").stdout.splitlines())
    compose.call(argv, on_line=call.output.line).require("reading the logs")
    return Outcome()


def config(call: Invocation, name: str) -> Outcome:
    """The Compose files as Compose understands them, with secrets masked."""
    import yaml

    call.environment(name)
    compose = open_compose(call.stack, name, call.root)
    masked = _masked(dict(compose.configuration().rendered))
    return Outcome(value=masked, raw=yaml.safe_dump(masked, sort_keys=False))


def _masked(document: dict[str, Any]) -> dict[str, Any]:
    for service in document["services"].values():
        variables = service.get("environment") or {}
        for variable, value in variables.items():
            if value and SECRET_NAME.search(variable) and not str(value).startswith("/run/secrets/"):
                variables[variable] = MASK
    return document


def execute(call: Invocation, name: str, service: str) -> Outcome:
    """Run what stands after `--` inside a container; its exit code is ours."""
    call.environment(name)
    if not call.remainder:
        raise Refused(
            "no-command",
            "Nothing stands after `--`.",
            next_command=f"invoke env.exec --env {name} --service {service} -- python --version",
        )
    compose = open_compose(call.stack, name, call.root)
    seen = observe(call.stack, name, compose)
    service_of(seen.configuration, service)
    if not any(container.state == "running" for container in seen.of(service)):
        raise Refused("not-running", f"{service} does not run.", next_command=f"invoke env.up --env {name}")
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    argv = compose.argv("exec", *([] if terminal else ["--no-TTY"]), service, *call.remainder)
    if call.output.as_json:
        completed = run(argv, extra_env=compose.environment(), redact=compose.redact)
        value = {"exit_code": completed.exit_code, "stdout": completed.stdout, "stderr": completed.stderr}
        return Outcome(value=value, exit_code=completed.exit_code)
    return replace(argv, compose.environment())
