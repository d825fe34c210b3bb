"""Who else can write to a target: its folder `.store` must be ours, of the rest it is said.

Whoever owns `.store` can exchange what is in it while a command builds, moves and deletes there. A network share may
show owners and modes of its own, the same for all that is on it; what counts is whose a new file becomes.
"""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from conche.errors import Refused

__all__ = ["exposure", "require_own"]

ROOT = 0


def require_own(folder: Path, store: Path, *below: Path) -> None:
    """Check that `.store` in a target is a folder of this user, and that what is below it is not a link.

    Raises:
        Refused: somebody else has made it, or has put a link in its place.
    """
    for place in (store, *below):
        try:
            seen = place.lstat()
        except FileNotFoundError:
            continue
        if not stat.S_ISDIR(seen.st_mode):
            raise _refused(place, "is a link or no folder")
    owner = store.lstat().st_uid
    if owner not in _ours() and owner != _owner_of_new(folder):
        raise _refused(store, f"belongs to user {owner}")


def exposure(folder: Path, store: Path) -> str:
    """Return who else can write to a target, in words; nothing if nobody can."""
    try:
        seen = [(place, place.stat()) for place in (folder, store)]
    except OSError:
        return ""
    for place, status in seen:
        shared = stat.S_IWOTH if _is_private_group(status) else stat.S_IWGRP | stat.S_IWOTH
        if status.st_mode & shared and not status.st_mode & stat.S_ISVTX:
            return f"others can write to {place} (mode {stat.S_IMODE(status.st_mode):04o}): {HARM}"
        if status.st_uid not in _ours():
            return f"{place} belongs to user {status.st_uid}: {HARM}"
    return ""


HARM = "they can delete backups, or put others in their place (`conche docs backup`)"


def _is_private_group(status: os.stat_result) -> bool:
    """Return whether the group of a file is its owner's own, by the number that distributions give such a group."""
    return status.st_gid == status.st_uid


def _ours() -> set[int]:
    """Return the users who can do no more than this one, or anything anyhow: this one, who called sudo, and root."""
    caller = os.environ.get("SUDO_UID", "")
    return {os.geteuid(), ROOT, *([int(caller)] if caller.isascii() and caller.isdigit() and not os.geteuid() else [])}


def _owner_of_new(folder: Path) -> int:
    """Return whose a file becomes that this user makes here: a share may give all files to one user."""
    descriptor, name = tempfile.mkstemp(dir=folder, prefix=".conche-owner-")
    try:
        return os.fstat(descriptor).st_uid
    finally:
        os.close(descriptor)
        os.unlink(name)


def _refused(place: Path, why: str) -> Refused:
    return Refused(
        "target-foreign",
        f"{place} {why}, so what is in it cannot be trusted.",
        looked_at=[str(place)],
        next_command=f"ls -ld '{place}'    # who made it?\n"
        "run it as that user; or, if all of it is yours, give it to the user who makes the backups: chown -R",
    )
