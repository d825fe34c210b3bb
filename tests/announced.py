"""A service that says when it is ready, as sd_notify(3) has it: nobody has to ask it again and again."""

from __future__ import annotations

import os
import select
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

STARTING = 60.0
"""Seconds that a service has until it is ready."""


def start(argv: Sequence[str], folder: Path) -> subprocess.Popen[bytes]:
    """Start a service, and wait until it is ready.

    Args:
        folder: for its log, to which is added, and for the socket on which it speaks.

    Raises:
        AssertionError: it has ended, or is not ready in time.
    """
    place, log = folder / "ready", folder / "log"
    place.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told, log.open("ab") as stream:
        told.bind(str(place))
        environment = {**os.environ, "NOTIFY_SOCKET": str(place)}
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
