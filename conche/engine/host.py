"""The machine that an engine runs on: its disk and its ports."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from conche.engine import ports
from conche.engine.connection import Engine, translated
from conche.errors import NotFound

__all__ = ["MIN_FREE", "Disk", "disk_at", "disk_of", "free_disk", "listener"]

MIN_FREE = {"build": 2 * 1024**3, "pull": 2 * 1024**3, "start": 100 * 1024**2}
"""Bytes that must be free on the engine's disk for a plan with such a step."""


@dataclass(frozen=True)
class Disk:
    """The disk that a folder is on.

    Attributes:
        device: the same for all folders on it.
        free: bytes that this user may still write there.
    """

    folder: Path
    device: int
    free: int


def disk_at(folder: Path) -> Disk:
    """Return the disk that a folder is on."""
    return Disk(folder, folder.stat().st_dev, shutil.disk_usage(folder).free)


def disk_of(engine: Engine, volume: str) -> Disk | None:
    """Return the disk that a volume, or a folder of the engine's host, is on; None if it cannot be seen from here."""
    if not engine.is_local:
        return None
    for place in [Path(volume)] if volume.startswith("/") else _places(engine, volume):
        with contextlib.suppress(OSError):
            return disk_at(place)
    return None


def _places(engine: Engine, volume: str) -> list[Path]:
    """Return where a volume is, if there is one, and where the engine keeps volumes, which more users may look at.

    One that a plugin makes, or that has options, such as an NFS share or a bound folder, is elsewhere while it is not
    mounted: nothing is returned for it.
    """
    found = []
    with contextlib.suppress(NotFound), translated(engine.address):
        seen = engine.client.api.inspect_volume(volume)
        if seen["Driver"] != "local" or seen.get("Options"):
            return []
        found.append(Path(seen["Mountpoint"]))
    with translated(engine.address):
        return [*found, Path(engine.client.api.info()["DockerRootDir"])]


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
