"""env.logs, env.config and env.exec: an environment's logs, its Compose files, and commands inside it."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from typing import Any

from conche.command import Invocation
from conche.engine import containers
from conche.engine.compose import Compose
from conche.engine.containers import Container
from conche.env import on_swarm
from conche.env.observe import service_of
from conche.env.report import nothing_written
from conche.env.unread import with_or_without_files
from conche.errors import Refused
from conche.outcome import Outcome
from conche.output import at_terminal
from conche.process import Captured, replace, run
from conche.secret import MASK, SECRET_NAME
from conche.session import open_compose, open_unread

__all__ = ["config", "execute", "logs"]

CLEAR_LINE = "\x1b[2K"
"""What Compose 2.26 writes before each line of a log, on a terminal or not, whatever --ansi says."""

USERINFO = re.compile(r"(?<=://)[^/@\s]+(?=@)")
"""User and password in a URL."""


def logs(call: Invocation, name: str, *, follow: bool, tail: int, service: str | None) -> Outcome:
    """Show what the containers write, from the last `tail` lines of each on."""
    swarmed = call.environment(name).swarm
    if follow and call.output.as_json:
        raise Refused(
            "json-has-an-end", "--json and --follow exclude each other.", next_command="invoke env.logs --follow"
        )
    if swarmed:
        return on_swarm.logs(call, name, open_compose(call, name), follow=follow, tail=tail, service=service)
    compose = _as_it_runs(call, name, service)
    if service and not _of(compose, service):
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


def _as_it_runs(call: Invocation, name: str, service: str | None) -> Compose:
    """Open an environment by what the engine has of it: logs and exec need no files.

    Raises:
        NotFound: the service has no container, and is in no Compose file.
    """
    with_or_without_files(call, name, lambda _: None)  # learns what must not be shown
    compose = open_unread(call, name)
    if service and not _of(compose, service):
        service_of(open_compose(call, name).configuration(hashed=False), service)
    return compose


def _of(compose: Compose, service: str) -> list[Container]:
    return [one for one in containers.of_project(compose.engine, compose.project) if one.service == service]


def config(call: Invocation, name: str) -> Outcome:
    """Show the Compose files as Compose understands them, with secrets masked."""
    import yaml

    call.environment(name)
    compose = open_compose(call, name)
    rendered = dict(compose.configuration(hashed=False).rendered)
    services = {name: {**body, **_hidden(body)} for name, body in rendered["services"].items()}
    masked = json.loads(compose.redact(json.dumps(_urls({**rendered, "services": services}))))
    return Outcome(value=masked, raw=yaml.safe_dump(masked, sort_keys=False))


def _hidden(service: Mapping[str, Any]) -> dict[str, Any]:
    """Return a service's variables, with the values of those named like a secret masked."""
    variables = service.get("environment") or {}
    hidden = {
        name: MASK if value and SECRET_NAME.search(name) and not str(value).startswith("/run/secrets/") else value
        for name, value in variables.items()
    }
    return {"environment": hidden} if variables else {}


def _urls(value: Any) -> Any:
    """Mask users and passwords in URLs."""
    if isinstance(value, dict):
        return {key: _urls(below) for key, below in value.items()}
    if isinstance(value, list):
        return [_urls(below) for below in value]
    return USERINFO.sub(MASK, value) if isinstance(value, str) else value


def execute(call: Invocation, name: str, service: str) -> Outcome:
    """Run the command after `--` inside a container, and end with its exit code."""
    swarmed = call.environment(name).swarm
    if not call.remainder:
        raise Refused(
            "no-command",
            "Nothing stands after `--`.",
            next_command=f"invoke env.exec --env {name} --service {service} -- python --version",
        )
    if swarmed:
        return on_swarm.execute(call, open_compose(call, name), service)
    compose = _as_it_runs(call, name, service)
    if not any(container.state == "running" for container in _of(compose, service)):
        raise Refused("not-running", f"{service} does not run.", next_command=f"invoke env.up --env {name}")
    terminal = at_terminal(sys.stdin, sys.stdout)
    argv = compose.argv("exec", *([] if terminal else ["--no-TTY"]), service, *call.remainder)
    if call.output.as_json:
        completed = run(argv, extra_env=compose.environment(), redact=compose.redact)
        value = {"exit_code": completed.exit_code, "stdout": str(completed.stdout), "stderr": str(completed.stderr)}
        return Outcome(value=value, exit_code=completed.exit_code)
    return replace(argv, compose.environment())
