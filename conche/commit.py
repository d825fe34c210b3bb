"""Which commit a checkout is, asked of git without the lock of its index.

`git describe --dirty` takes that lock while it looks, whatever GIT_OPTIONAL_LOCKS says: a commit that somebody makes
meanwhile fails, and a describe that is killed leaves the lock behind for good (builtin/describe.c).
"""

from __future__ import annotations

from pathlib import Path

from conche.process import run

__all__ = ["DIRTY", "described"]

DIRTY = "-dirty"
"""Ends the description of a checkout in which files that git tracks have uncommitted changes."""


def described(root: Path, *options: str, timeout: float = 10) -> str:
    """Return what `git describe` says of a checkout's commit, and whether there are uncommitted changes.

    Args:
        options: such as `--tags`, for `git describe`.
        timeout: seconds for each of the two calls of git.

    Returns:
        Such as `v1.2-3-g1a2b3c4-dirty`; empty if the folder is not a checkout of a commit.

    Raises:
        Unreachable: git is not installed, or did not answer in time.
    """
    git = ["git", "--no-optional-locks", "-C", str(root)]
    said = run([*git, "describe", "--always", *options], timeout=timeout)
    changed = run([*git, "status", "--porcelain", "--untracked-files=no"], timeout=timeout)
    if not (said.ok and changed.ok):
        return ""
    return said.stdout.raw.strip() + (DIRTY if changed.stdout.raw else "")
