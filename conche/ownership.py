"""Whose a file is that takes the place of another."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

__all__ = ["give", "replaced"]


def replaced(path: Path) -> os.stat_result | None:
    """Return the file at a path, if whoever has it may have one there: the owner of the folder, or we."""
    try:
        there, folder = path.lstat(), path.parent.stat()
    except OSError:
        return None
    return there if stat.S_ISREG(there.st_mode) and there.st_uid in (folder.st_uid, os.geteuid()) else None


def give(descriptor: int, before: os.stat_result) -> None:
    """Give a new file the owner and group of the one it replaces; only root may give any."""
    for user, group in ((-1, before.st_gid), (before.st_uid, -1)):
        with contextlib.suppress(OSError):
            os.fchown(descriptor, user, group)
