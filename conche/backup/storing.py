"""Passes entries to a writer, and tries again what changes while it is read."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator
from tarfile import TarInfo
from typing import Protocol

from conche.backup.entries import BLOCK, Changed, Entry, HoldsKey, Unreadable
from conche.backup.headers import stored
from conche.backup.reading import Reading

__all__ = ["Writer", "store", "store_one"]

TRIES = 3

NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)
"""Errors of symlink(2) on a file system without links, such as vfat."""


class Writer(Protocol):
    """What entries are written to: an archive or a folder."""

    def add(self, info: TarInfo, blocks: Iterable[bytes] = ...) -> None: ...

    def mark(self) -> object: ...

    def back(self, mark: object) -> None: ...


def store(entries: Iterable[Entry], writer: Writer, reading: Reading) -> None:
    """Write every entry; what cannot be read completely is left out, and recorded in `reading`."""
    for entry in entries:
        store_one(entry, writer, reading)


def store_one(entry: Entry, writer: Writer, reading: Reading) -> bytes:
    """Write an entry; return what was seen of its source, nothing if it has to be read again or was left out."""
    left = len(reading.left_out)
    if entry.read is None:
        reading.sight.saw(entry.info.name, entry.seen)
        _add_unread(entry.info, writer, reading)
    else:
        _add_read(entry.info.name, entry.read, writer, reading)
    return reading.sight.last if len(reading.left_out) == left else b""


def _add_read(name: str, read: Callable[[], tuple[TarInfo, Iterator[bytes]]], writer: Writer, reading: Reading) -> None:
    """Add a file."""
    before, reading.sight.last = len(reading.left_out), b""
    _try_to_add(name, read, writer, reading)
    reading.sight.said += [(one.name, one.why) for one in reading.left_out[before:]]


def _try_to_add(
    name: str, read: Callable[[], tuple[TarInfo, Iterator[bytes]]], writer: Writer, reading: Reading
) -> None:
    for _ in range(TRIES):
        try:
            _add(writer, *read())
        except Changed:
            continue
        except FileExistsError:
            reading.leave_out(name, "clashes with another name on the target, which ignores case", harmful=True)
        except HoldsKey:
            reading.leave_out(name, "holds a private age key")
        except Unreadable as error:
            reading.leave_out(name, str(error), harmful=True)
        return
    reading.leave_out(name, f"changed while it was read, {TRIES} times", harmful=True)


def _add_unread(info: TarInfo, writer: Writer, reading: Reading) -> None:
    """Add a folder or a link."""
    try:
        writer.add(info)
    except OSError as error:
        if not info.issym() or error.errno not in NO_LINKS:
            raise
        reading.leave_out(info.name, "is a link, and the target's file system does not support links", harmful=True)


def _add(writer: Writer, info: TarInfo, blocks: Iterator[bytes]) -> None:
    if stored(info) <= BLOCK:  # it has been read completely already
        writer.add(info, blocks)
        return
    mark = writer.mark()
    try:
        writer.add(info, blocks)
    except BaseException:
        writer.back(mark)
        raise
