"""Decides which mounts of a container reach a volume or a path of the engine's host: at, below or above it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from conche import mountinfo

__all__ = ["Mount", "Places", "mounts", "own_container", "volume_paths"]


@dataclass(frozen=True)
class Mount:
    """One mount of a container.

    Attributes:
        volume: the volume's name; empty for a folder or file of the host.
        paths: its paths on the engine's host.
    """

    volume: str
    paths: frozenset[PurePosixPath]
    writable: bool


@dataclass(frozen=True)
class Places:
    """Volumes and paths of the engine's host that are about to be read or replaced."""

    volumes: frozenset[str]
    paths: frozenset[PurePosixPath]
    above: frozenset[PurePosixPath]

    @classmethod
    def of(
        cls, names: Iterable[str], volumes: Mapping[str, Iterable[str]], resolve: Callable[[str], str] = str
    ) -> Places:
        """Build the places from volume names and absolute paths.

        Args:
            volumes: name of each volume -> its paths on the host.
            resolve: resolves symbolic links, if the host's file system is accessible.
        """
        every = tuple(names)
        named = frozenset(one for one in every if not one.startswith("/"))
        texts = [
            *(one for one in every if one.startswith("/")),
            *(path for one in named for path in volumes.get(one, ())),
        ]
        paths = _paths(texts, resolve)
        return cls(named, paths, frozenset(parent for path in paths for parent in path.parents))

    def reached_by(self, mount: Mount) -> bool:
        """Return whether a container with this mount may use these places.

        A mount stays bound to the file or folder it was made from, even when another takes its name: so a container
        with a mount at a place, or below it, keeps using the old data. Through a mount above, names are looked up
        again, so only writers are in the way.
        """
        if mount.volume in self.volumes or any({path, *path.parents} & self.paths for path in mount.paths):
            return True
        return mount.writable and bool(mount.paths & self.above)


def mounts(
    described: Sequence[Mapping[str, Any]], volumes: Mapping[str, Iterable[str]], resolve: Callable[[str], str] = str
) -> list[Mount]:
    """Build a container's mounts from the engine's answer."""
    return [
        Mount(
            one.get("Name") or "",
            _paths([*([one["Source"]] if one.get("Source") else []), *volumes.get(one.get("Name") or "", ())], resolve),
            writable=bool(one.get("RW", True)),
        )
        for one in described
    ]


def volume_paths(described: Iterable[Mapping[str, Any]]) -> dict[str, tuple[str, ...]]:
    """Return each volume's paths on the engine's host: its folder, and the path it binds instead, if any."""
    found = {}
    for one in described:
        options = one.get("Options") or {}
        bound = "bind" in str(options.get("o", "")).split(",")
        every = (one.get("Mountpoint"), options.get("device") if bound else None)
        found[str(one["Name"])] = tuple(str(path) for path in every if path)
    return found


def own_container() -> str:
    """Return the id of the container in which this process runs; empty if it runs in none.

    The engine mounts files of the container's own folder, such as its hosts file, into it, which shows its id.
    """
    try:
        text = mountinfo.MOUNTINFO.read_text(errors="replace")
    except OSError:
        return ""
    found = re.search(r"/containers/([0-9a-f]{64})/", text)
    return found[1] if found else ""


def _paths(texts: Iterable[str], resolve: Callable[[str], str]) -> frozenset[PurePosixPath]:
    return frozenset(PurePosixPath(form) for text in texts for form in (text, resolve(text)))
