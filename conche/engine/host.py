"""The machine an engine runs on: its disk and its ports."""

from __future__ import annotations

import contextlib
import errno
import shutil
import socket
from pathlib import Path

from conche.engine import containers
from conche.engine.connection import Engine, translated

__all__ = ["MIN_FREE", "free_disk", "listener"]

MIN_FREE = {"build": 2 * 1024**3, "pull": 2 * 1024**3, "start": 100 * 1024**2}
"""Bytes that must be free on the engine's disk for a plan with such a step."""


def free_disk(engine: Engine) -> int | None:
    """Free bytes where the engine keeps images and volumes; None where that cannot be seen from here."""
    if not engine.is_local:
        return None
    with translated(engine.address):
        root = Path(engine.client.api.info()["DockerRootDir"])
    try:
        return shutil.disk_usage(root).free
    except OSError:
        return None


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
            # A privileged port or an address this host does not have is the engine's affair.
            return error.errno != errno.EADDRINUSE
    return True


def _process_on(port: int) -> str:
    import psutil

    with contextlib.suppress(psutil.Error):
        for connection in psutil.net_connections("inet"):
            held = getattr(connection.laddr, "port", None) == port and connection.status == psutil.CONN_LISTEN
            if held and connection.pid:
                return f"process {psutil.Process(connection.pid).name()} (pid {connection.pid})"
    return ""
