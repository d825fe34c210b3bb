"""Which mounts of a container reach a volume or a path of the engine's host: at it, below it, or above it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

__all__ = ["Mount", "Places", "mounts", "own_container", "volume_paths"]

MOUNTINFO = Path("/proc/self/mountinfo")


@dataclass(frozen=True)
class Mount:
    """One mount of a container.

    Attributes:
        volume: the volume's name; empty for a folder or file of the host.
        paths: where it is on the engine's host.
    """

    volume: str
    paths: frozenset[PurePosixPath]
    writable: bool


@dataclass(frozen=True)
class Places:
    """What is about to be read or exchanged, by the names of volumes and by paths of the engine's host."""

    volumes: frozenset[str]
    paths: frozenset[PurePosixPath]
    above: frozenset[PurePosixPath]

    @classmethod
    def of(
        cls, names: Iterable[str], volumes: Mapping[str, Iterable[str]], resolve: Callable[[str], str] = str
    ) -> Places:
        """The places that are meant by names of volumes, and by absolute paths.

        Args:
            volumes: name of each volume -> its paths on the host.
            resolve: gives a path without symbolic links, where the host's file system can be asked.
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
        """Whether a container with this mount may use what is here.

        A mount stays with the file or folder that it was made of, whatever takes its name: so whoever has one at a
        place, or below it, goes on with the old data. From above everything is looked up by its name again, and only
        who can write is in the way.
        """
        if mount.volume in self.volumes or any({path, *path.parents} & self.paths for path in mount.paths):
            return True
        return mount.writable and bool(mount.paths & self.above)


def mounts(
    described: Sequence[Mapping[str, Any]], volumes: Mapping[str, Iterable[str]], resolve: Callable[[str], str] = str
) -> list[Mount]:
    """The mounts of a container, from the engine's answer."""
    return [
        Mount(
            one.get("Name") or "",
            _paths([*([one["Source"]] if one.get("Source") else []), *volumes.get(one.get("Name") or "", ())], resolve),
            writable=bool(one.get("RW", True)),
        )
        for one in described
    ]


def volume_paths(described: Iterable[Mapping[str, Any]]) -> dict[str, tuple[str, ...]]:
    """Where each volume is on the engine's host: its folder, and what it binds there instead."""
    found = {}
    for one in described:
        options = one.get("Options") or {}
        bound = "bind" in str(options.get("o", "")).split(",")
        every = (one.get("Mountpoint"), options.get("device") if bound else None)
        found[str(one["Name"])] = tuple(str(path) for path in every if path)
    return found


def own_container() -> str:
    """The id of the container in which this process runs; empty where it runs in none.

    The engine mounts some files of a container's own folder, such as its hosts, into it.
    """
    try:
        text = MOUNTINFO.read_text(errors="replace")
    except OSError:
        return ""
    found = re.search(r"/containers/([0-9a-f]{64})/", text)
    return found[1] if found else ""


def _paths(texts: Iterable[str], resolve: Callable[[str], str]) -> frozenset[PurePosixPath]:
    return frozenset(PurePosixPath(form) for text in texts for form in (text, resolve(text)))
