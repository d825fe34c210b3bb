"""Reads the notes that backups and restores keep on disk: one that cannot be read is never taken for none."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from conche.backup import within
from conche.errors import CheckFailed, Refused
from conche.formats import Format

__all__ = ["LEAVE", "Damaged", "read", "told_apart"]

LEAVE = "invoke backup.settle --as-it-is    # leave it; nothing that a restore put aside is deleted"

LARGEST = 256 << 20
"""Maximum bytes of a note that are read; the journal of a restore names every file that it exchanges."""

T = TypeVar("T")


class Damaged(CheckFailed):
    """A note is there that cannot be understood, or that names what is not the stack's own."""

    def __init__(self, what: str, file: Path, how: str = "is damaged") -> None:
        super().__init__("note-damaged", f"The {what} {file} {how}.", looked_at=[str(file)], next_command=LEAVE)


def read(file: Path, kind: Format, build: Callable[[Any], T]) -> T | None:
    """Return what a note says; None only if there is no such file.

    Args:
        build: makes a value of the content, without its stamp; fails with the errors of a content of another shape.

    Raises:
        WrittenByNewer: a later version has written it.
        Damaged: it cannot be understood.
        Refused: this user may not read it.
    """
    try:
        content = within.content(file.parent.resolve(), file.name, LARGEST)
        return build(kind.opened(json.loads(content), str(file)))
    except FileNotFoundError:
        return None
    except PermissionError as error:
        raise Refused(
            "file-unreadable",
            f"The {kind.name} {file} cannot be read: {error.strerror}.",
            looked_at=[str(file)],
            next_command=f"ls -l '{file.parent}'    # then run it again as its owner",
        ) from error
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged(kind.name, file) from error


def told_apart(files: Iterable[Path], parsed: Callable[[Path], T | None]) -> tuple[list[T], list[Path]]:
    """Return what the notes in these files say, and the files that cannot be understood."""
    understood, damaged = [], []
    for file in sorted(files):
        try:
            note = parsed(file)
        except Damaged:
            damaged.append(file)
        else:
            understood += [] if note is None else [note]
    return understood, damaged
