"""Start services that announce when they are ready, by sd_notify(3), so that no test has to poll them."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

STARTING = 300.0
"""Seconds that a service has to become ready."""


@contextlib.contextmanager
def place() -> Iterator[Path]:
    """Make a folder for a service's sockets: their paths have at most 108 bytes (unix(7)), pytest's may be longer."""
    with tempfile.TemporaryDirectory(prefix="conche-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def start(argv: Sequence[str], folder: Path) -> subprocess.Popen[bytes]:
    """Start a service, and wait until it is ready.

    Args:
        folder: for its log, which is appended to, and for the socket on which it announces itself.

    Raises:
        AssertionError: it has ended, or is not ready in time.
    """
    ready_at, log = folder / "ready", folder / "log"
    ready_at.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told, log.open("ab") as stream:
        told.bind(str(ready_at))
        environment = {**os.environ, "NOTIFY_SOCKET": str(ready_at)}
        service = subprocess.Popen(argv, stdout=stream, stderr=stream, env=environment)
        ended = os.pidfd_open(service.pid)
        try:
            ready, _, _ = select.select([told.fileno(), ended], [], [], STARTING)
        finally:
            os.close(ended)
    if ended in ready or not ready:
        service.kill()
        service.wait()
        raise AssertionError(f"{argv[0]} does not start: {log.read_text()[-2000:]}")
    return service
