"""What must hold before anything is changed; every problem is named at once."""

from __future__ import annotations

import contextlib
import errno
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

from conche.engine import containers
from conche.engine.connection import Engine, translated
from conche.env.observe import Observed
from conche.errors import ConcheError, Refused, Unreachable
from conche.outcome import Plan

__all__ = ["MIN_FREE", "check", "engine_disk", "listener"]

MIN_FREE = {"build": 2 * 1024**3, "pull": 2 * 1024**3, "start": 100 * 1024**2}
"""Bytes that must be free on the engine's disk for a plan with such a step."""


def check(seen: Observed, plan: Plan, engine: Engine) -> None:
    """Refuse a plan that cannot succeed.

    Raises:
        Refused: with one problem as it is, or several in one list.
    """
    problems = [*_ports(seen, plan, engine), *_files(seen, plan, engine), *_disk(plan, engine)]
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise Refused(
            "preflight-failed",
            f"{len(problems)} things stand in the way; nothing was changed.",
            evidence=[f"{problem.code}: {problem.message}" for problem in problems],
            next_command="\n".join(dict.fromkeys(p.next_command for p in problems if p.next_command)),
        )


def _ports(seen: Observed, plan: Plan, engine: Engine) -> Iterator[ConcheError]:
    starting = {step.subject.removeprefix("service ") for step in plan if step.subject.startswith("service ")}
    for name in sorted(starting & seen.configuration.services.keys()):
        if any(container.state == "running" for container in seen.of(name)):
            continue
        for address, port in seen.configuration.services[name].ports:
            holder = listener(engine, address, port)
            if holder:
                yield Refused(
                    "port-taken",
                    f"Port {port}, which {name} publishes, is taken by {holder}.",
                    looked_at=[f"{address or 'every address'}:{port}"],
                    next_command=f"stop it, or change `environments.{seen.name}.port` in stack.yaml",
                )


def listener(engine: Engine, address: str, port: int) -> str:
    """Who listens on a port of the engine's host: `container x`, `process y (pid 7)`, or an empty string."""
    container = containers.publishing(engine, port)
    if container is not None:
        return f"container {container.name}"
    if not engine.is_local or _free(address, port):
        return ""
    return _process_on(port) or "a process of another user"


def _free(address: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As a server would ask: connections of a server that has just ended do not hold the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address or "0.0.0.0", port))  # noqa: S104 - asks, does not listen
        except OSError as error:
            # An address this host does not have is for Compose to complain about.
            return error.errno not in (errno.EADDRINUSE, errno.EACCES)
    return True


def _process_on(port: int) -> str:
    import psutil

    with contextlib.suppress(psutil.Error):
        for connection in psutil.net_connections("inet"):
            held = getattr(connection.laddr, "port", None) == port and connection.status == psutil.CONN_LISTEN
            if held and connection.pid:
                return f"process {psutil.Process(connection.pid).name()} (pid {connection.pid})"
    return ""


def _files(seen: Observed, plan: Plan, engine: Engine) -> Iterator[ConcheError]:
    """Compose accepts a missing secret file or bind mount and fails half-way; a bind mount may even become a folder."""
    if not (engine.is_local and len(plan)):
        return
    for service in seen.configuration.services.values():
        missing = [path for path in (*service.secret_files, *service.binds) if not path.exists()]
        if missing:
            yield Refused(
                "file-missing",
                f"{service.name} mounts files that are not there: {', '.join(path.name for path in missing)}.",
                looked_at=[str(path) for path in missing],
                next_command="invoke secrets.render" if set(missing) <= set(service.secret_files) else "git status",
            )
        unreadable = [path for path in service.binds if path.is_dir() and not path.stat().st_mode & 0o005]
        if unreadable and unreadable[0].stat().st_uid == 0:
            yield Refused(
                "bind-mount-unreadable",
                f"{service.name} does not run as root and cannot read {unreadable[0]}.",
                next_command=f"chmod -R o+rX '{unreadable[0]}'",
            )


def _disk(plan: Plan, engine: Engine) -> Iterator[ConcheError]:
    needed = max((MIN_FREE.get(step.action, MIN_FREE["start"]) for step in plan), default=0)
    free = engine_disk(engine)
    if free is not None and free < needed:
        yield Unreachable(
            "disk-full",
            f"The engine's disk has {free / 1024**2:.0f} MiB free; {needed / 1024**2:.0f} MiB are wanted.",
            next_command="docker system df\ndocker builder prune",
        )


def engine_disk(engine: Engine) -> int | None:
    """Free bytes where the engine keeps images and volumes; None where that cannot be seen from here."""
    if not engine.is_local:
        return None
    with translated(engine.address):
        root = Path(engine.client.api.info()["DockerRootDir"])
    try:
        return shutil.disk_usage(root).free
    except OSError:
        return None
