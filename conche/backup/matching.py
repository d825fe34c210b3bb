"""Finds what glob patterns match in a checkout, and says which folders it could not look into."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from conche.backup.reading import Reading

__all__ = ["matching"]

MAGIC = re.compile(r"[*?[]")
DEEP = "**"


class _Place(NamedTuple):
    """A path, and the parts of a pattern that what is below it has to match."""

    name: str
    parts: Sequence[str]


def matching(root: Path, pattern: str, reading: Reading) -> Iterator[str]:
    """Yield the paths below `root` that a pattern matches as pathlib's `glob` has it, but for what is excluded.

    pathlib passes over folders that cannot be read; here they are recorded in `reading` as missing.
    """
    seen = set[str]()
    left = [_Place("", PurePosixPath(pattern).parts)]  # no recursion: folders may be nested deeper than Python's calls
    while left:
        name, parts = left.pop()
        if parts:
            left += reversed([*_next(root, name, parts, reading)])
        elif name not in seen:
            seen.add(name)
            yield name or "."


def _next(root: Path, folder: str, parts: Sequence[str], reading: Reading) -> Iterator[_Place]:
    """Yield what the first part of a pattern matches in a folder, with the parts that its content has to match."""
    first, rest = parts[0], parts[1:]
    if first == DEEP:
        yield _Place(folder, rest)
        for name, is_folder in _listed(root, folder, lambda _: True, reading):
            if is_folder and not (root / name).is_symlink():
                yield _Place(name, parts)
    elif MAGIC.search(first):
        matches = re.compile(fnmatch.translate(first)).match
        for name, is_folder in _listed(root, folder, lambda last: matches(last) is not None, reading):
            if is_folder or not rest:
                yield _Place(name, rest)
    else:
        name = _joined(folder, first)
        if not reading.excludes(name) and _is_there(root / name, name, reading):
            yield _Place(name, rest)


def _listed(root: Path, folder: str, wanted: Callable[[str], bool], reading: Reading) -> Iterator[tuple[str, bool]]:
    """Yield what a folder has, and whether that is a folder; nothing if it is none."""
    try:
        children = sorted((root / folder).iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        _say(folder or ".", error, reading)
        return
    for child in children:
        name = _joined(folder, child.name)
        if wanted(child.name) and not reading.excludes(name):
            try:
                yield name, child.is_dir()
            except OSError as error:  # pathlib takes only some of them for an answer
                _say(name, error, reading)


def _is_there(path: Path, name: str, reading: Reading) -> bool:
    try:
        return path.exists()
    except OSError as error:
        _say(name, error, reading)
        return False


def _say(name: str, error: OSError, reading: Reading) -> None:
    reading.leave_out_once(name, f"cannot be read: {error.strerror}", harmful=True)


def _joined(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name
