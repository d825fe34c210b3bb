"""Walks and removes folders however deep they are: a stranger's may be deeper than Python's recursion or a path."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path

from conche.backup.within import FOLDER

__all__ = ["everything", "remove_tree"]


def everything(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Yield everything below a folder that a path can name, through no link; what cannot be listed is passed over."""
    left = [os.fspath(folder)]
    while left:
        with contextlib.suppress(OSError), os.scandir(left.pop()) as entries:
            for entry in entries:
                yield entry
                if entry.is_dir(follow_symlinks=False):
                    left.append(entry.path)


def remove_tree(folder: Path) -> None:
    """Remove a folder with everything below it.

    Raises:
        OSError: there is no such folder; or something in it cannot be removed, and everything else is.
    """
    top = os.open(folder, FOLDER)
    problems: dict[str, OSError] = {}
    try:
        while names := [name for name in _names(top) if name not in problems]:
            for name in names:
                try:
                    _remove(name, top)
                except OSError as error:
                    problems[name] = error
    finally:
        os.close(top)
    for problem in problems.values():
        raise problem
    folder.rmdir()


def _remove(name: str, top: int) -> None:
    """Remove what is in a folder; if that is a folder, what has more below it goes up into the outer one first."""
    if _is_gone(name, top):
        return
    below = os.open(name, FOLDER, dir_fd=top)
    problem: OSError | None = None
    try:
        for inner in _names(below):
            try:
                if not _is_gone(inner, below):
                    os.rename(inner, uuid.uuid4().hex, src_dir_fd=below, dst_dir_fd=top)
            except OSError as error:
                problem = error
    finally:
        os.close(below)
    if problem is not None:
        raise problem
    os.rmdir(name, dir_fd=top)


def _names(descriptor: int) -> list[str]:
    with os.scandir(descriptor) as entries:
        return [entry.name for entry in entries]


def _is_gone(name: str, above: int) -> bool:
    """Remove a file or an empty folder; return whether it was one."""
    if not stat.S_ISDIR(os.stat(name, dir_fd=above, follow_symlinks=False).st_mode):
        os.unlink(name, dir_fd=above)
        return True
    try:
        os.rmdir(name, dir_fd=above)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
    return True
