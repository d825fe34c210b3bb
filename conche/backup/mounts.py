"""Tells whether a folder is on a disk of its own, by the kernel's list of mounts."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from conche import mountinfo
from conche.stack import Component

__all__ = ["mount_of", "unmounted"]


def mount_of(path: Path, mounts: Collection[Path]) -> Path:
    """Return the mount point that a resolved path is on."""
    return next((one for one in (path, *path.parents) if one in mounts or os.path.ismount(one)), Path("/"))


def unmounted(root: Path, component: Component) -> Iterator[str]:
    """Yield the paths that a component wants mounted, but that are on the checkout's or the root's file system."""
    if not component.mounted:
        return
    mounts = _mounts()
    own = (Path("/"), mount_of(root.resolve(), mounts))
    for pattern in component.paths:
        if mount_of((root / _fixed(pattern)).resolve(), mounts) in own:
            yield pattern


def _fixed(pattern: str) -> Path:
    """Return the leading part of a pattern that has no wildcards."""
    parts = Path(pattern).parts
    signs = next((place for place, part in enumerate(parts) if set(part) & set("*?[")), len(parts))
    return Path(*parts[:signs])


def _mounts() -> Collection[Path]:
    try:
        return mountinfo.mounted().keys()
    except OSError:  # not Linux: os.path.ismount alone must do, which misses bind mounts of the same file system
        return ()
