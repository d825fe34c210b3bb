"""The machine that an engine runs on: its disk and its ports."""

from __future__ import annotations

import shutil
from pathlib import Path

from conche.engine import ports
from conche.engine.connection import Engine, translated

__all__ = ["MIN_FREE", "free_disk", "listener"]

MIN_FREE = {"build": 2 * 1024**3, "pull": 2 * 1024**3, "start": 100 * 1024**2}
"""Bytes that must be free on the engine's disk for a plan with such a step."""


def free_disk(engine: Engine) -> int | None:
    """Return the free bytes where the engine keeps images and volumes; None if that cannot be seen from here."""
    if not engine.is_local:
        return None
    with translated(engine.address):
        root = Path(engine.client.api.info()["DockerRootDir"])
    try:
        return shutil.disk_usage(root).free
    except OSError:
        return None


def listener(engine: Engine, address: str, port: int) -> str:
    """Return who listens on a port of the engine's host: `container x`, `process y (pid 7)`, or an empty string."""
    return ports.holder(engine, ports.Port(address, port), ports.publishers(engine))
