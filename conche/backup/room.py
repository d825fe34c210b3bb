"""Whether there is room for what a restore unpacks: it lies beside the current data until both are exchanged."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from conche.backup.manifest import human_size
from conche.backup.source import Source
from conche.engine import host
from conche.engine.host import Disk
from conche.errors import Refused

__all__ = ["require_beside", "require_in"]

RESERVE = 64 << 20
"""Bytes that must stay free."""


def require_in(folder: Path, sources: Sequence[Source]) -> None:
    """Refuse to unpack components into a folder that has no room for them."""
    _require([(host.disk_at(folder), sum(map(_size, sources)))])


def require_beside(root: Path, sources: Sequence[Source]) -> None:
    """Refuse to unpack components where there is no room for them: volumes on their engine's disk, others in `root`.

    The disk of an engine elsewhere cannot be seen from here.
    """
    inside = [source for source in sources if source.record.driver == "volume"]
    outside = [source for source in sources if source.record.driver != "volume"]
    here = [(host.disk_at(root), sum(map(_size, outside)))] if outside else []
    _require([*here, *_in_volumes(inside)])


def _in_volumes(sources: Iterable[Source]) -> Iterator[tuple[Disk, int]]:
    for source in sources:
        component = source.site.section.components.get(source.name)
        if component is not None and component.volume and component.environment:
            disk = host.disk_of(source.site.engine(component), component.volume)
            if disk is not None:
                yield disk, _size(source)


def _size(source: Source) -> int:
    return sum(artifact.content or artifact.size for artifact in source.record.artifacts)


def _require(needs: Iterable[tuple[Disk, int]]) -> None:
    wanted: dict[int, int] = {}
    for disk, size in needs:
        # Several may be on one disk.
        wanted[disk.device] = wanted.get(disk.device, RESERVE) + size
        if disk.free < wanted[disk.device]:
            raise Refused(
                "disk-too-full-to-restore",
                f"The restore needs {human_size(wanted[disk.device])} beside the current data;"
                f" {human_size(disk.free)} are free.",
                looked_at=[str(disk.folder)],
                next_command=f"df -h '{disk.folder}'",
            )
