"""Passes entries to a writer, and tries again what changes while it is read."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from tarfile import TarInfo
from typing import Protocol

from conche.backup.entries import BLOCK, Changed, Entry, HoldsKey, Reading, Unreadable

__all__ = ["Writer", "store"]

TRIES = 3

NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)
"""Errors of symlink(2) on a file system without links, such as vfat."""


class Writer(Protocol):
    """What entries are written to: an archive or a folder."""

    def add(self, info: TarInfo, blocks: Iterable[bytes] = ...) -> None: ...

    def mark(self) -> object: ...

    def back(self, mark: object) -> None: ...


def store(entries: Iterable[Entry], writer: Writer, reading: Reading) -> int:
    """Write every entry; what cannot be read completely is left out, and recorded in `reading`.

    Returns:
        The number of entries written.
    """
    return sum(_store(entry, writer, reading) for entry in entries)


def _store(entry: Entry, writer: Writer, reading: Reading) -> bool:
    name = entry.info.name
    if entry.read is None:
        return _add_unread(entry.info, writer, reading)
    for _ in range(TRIES):
        try:
            _add(writer, *entry.read())
        except Changed:
            continue
        except FileExistsError:
            reading.leave_out(
                name, "has another's name on the target, which knows no upper and lower case", harmful=True
            )
            return False
        except HoldsKey:
            reading.leave_out(name, "holds a private age key")
            return False
        except Unreadable as error:
            reading.leave_out(name, str(error), harmful=True)
            return False
        return True
    reading.leave_out(name, f"changed while it was read, {TRIES} times", harmful=True)
    return False


def _add_unread(info: TarInfo, writer: Writer, reading: Reading) -> bool:
    """Add a folder or a link."""
    try:
        writer.add(info)
    except OSError as error:
        if not info.issym() or error.errno not in NO_LINKS:
            raise
        reading.leave_out(info.name, "is a link, and the target's file system has none", harmful=True)
        return False
    return True


def _add(writer: Writer, info: TarInfo, blocks: Iterator[bytes]) -> None:
    if info.size <= BLOCK:  # it has been read completely already
        writer.add(info, blocks)
        return
    mark = writer.mark()
    try:
        writer.add(info, blocks)
    except BaseException:
        writer.back(mark)
        raise
