"""Unpacks what the strict reader admits (strict.py) into a folder.

Everything is opened relative to a descriptor of its parent folder, without following links.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from tarfile import TarInfo
from typing import NamedTuple

from conche.backup.inflate import BLOCK, damaged
from conche.backup.strict import Admitted, Limits, Walked, admitted
from conche.backup.within import FOLDER, File

__all__ = ["extract", "fill"]

PAGE = 4096
ZEROS, HOLE = bytes(PAGE), bytes(BLOCK)


def extract(file: File, into: Path, limits: Limits) -> Walked:
    """Unpack a tar.gz into an existing folder; if it fails, what was unpacked stays for the caller to remove.

    Raises:
        CheckFailed: the archive is damaged, has an entry that no backup has, or breaks its limits.
    """
    walked = Walked()
    try:
        fill(into, admitted(file, limits, walked))
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTDIR, errno.ELOOP):
            raise damaged(file.path, f"two of its entries conflict: {error.strerror}") from error
        raise
    return walked


def fill(into: Path, entries: Iterable[Admitted], *, parents: int = 0o700, sync: bool = False) -> None:
    """Write entries into an existing folder.

    Args:
        parents: the mode of folders that are no entries themselves.
        sync: have each file on disk before the next one is written.
    """
    descriptor = os.open(into, FOLDER)
    try:
        folders = _Folders(descriptor, parents)
        try:
            for info, blocks in entries:
                _write_entry(info, blocks, folders, sync=sync)
            folders.finish()
        finally:
            folders.close()
    finally:
        os.close(descriptor)


class _Look(NamedTuple):
    """What a file or folder has beside its content."""

    mode: int
    uid: int
    gid: int
    mtime: float

    @classmethod
    def of(cls, info: TarInfo) -> _Look:
        return cls(info.mode, info.uid, info.gid, info.mtime)

    def put_on(self, descriptor: int) -> None:
        """Set the owner (if we are root), the mode, and the time."""
        if os.geteuid() == 0:
            os.fchown(descriptor, self.uid, self.gid)
        os.fchmod(descriptor, self.mode)
        os.utime(descriptor, (self.mtime, self.mtime))


class _Folders:
    """The folders below a descriptor, opened level by level and never through a link."""

    def __init__(self, top: int, mode: int) -> None:
        self._top, self._mode = top, mode
        self._open: list[tuple[bytes, int]] = []
        self._looks: list[tuple[bytes, _Look]] = []

    def above(self, name: bytes) -> tuple[int, bytes]:
        """Return the descriptor of the folder that contains `name`, made if missing, and the last part of `name`."""
        *parents, last = name.split(b"/")
        kept = 0
        while kept < min(len(parents), len(self._open)) and self._open[kept][0] == parents[kept]:
            kept += 1
        self._close(kept)
        for part in parents[kept:]:
            below = self._open[-1][1] if self._open else self._top
            with contextlib.suppress(FileExistsError):
                os.mkdir(part, self._mode, dir_fd=below)
            self._open.append((part, os.open(part, FOLDER, dir_fd=below)))
        return (self._open[-1][1] if self._open else self._top), last

    def make(self, name: bytes, look: _Look) -> None:
        """Make a folder; `finish` sets its mode and time."""
        above, last = self.above(name)
        try:
            os.mkdir(last, 0o700, dir_fd=above)
        except FileExistsError:
            os.close(os.open(last, FOLDER, dir_fd=above))
        self._looks.append((name, look))

    def finish(self) -> None:
        """Set the modes and times of the folders, the deepest first."""
        for name, look in sorted(self._looks, key=lambda pair: pair[0].count(b"/"), reverse=True):
            above, last = self.above(name)
            descriptor = os.open(last, FOLDER, dir_fd=above)
            try:
                look.put_on(descriptor)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def close(self) -> None:
        self._close(0)

    def _close(self, kept: int) -> None:
        while len(self._open) > kept:
            os.close(self._open.pop()[1])


def _write_entry(info: TarInfo, blocks: Iterator[bytes] | None, folders: _Folders, *, sync: bool) -> None:
    name = os.fsencode(info.name)
    if info.issym():
        above, last = folders.above(name)
        os.symlink(os.fsencode(info.linkname), last, dir_fd=above)
        return
    if blocks is None:
        folders.make(name, _Look.of(info))
        return
    above, last = folders.above(name)
    descriptor = os.open(last, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=above)
    try:
        for block in blocks:
            _write_sparsely(descriptor, block)
        os.ftruncate(descriptor, info.size)
        _Look.of(info).put_on(descriptor)
        if sync:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_sparsely(descriptor: int, block: bytes) -> None:
    """Write a block, with holes in place of pages of zeros."""
    if ZEROS not in block:
        _write(descriptor, block)
        return
    if block == HOLE:  # most blocks of a sparse file: one step instead of one for each page
        os.lseek(descriptor, len(block), os.SEEK_CUR)
        return
    begun = 0
    for place in range(0, len(block), PAGE):
        if block[place : place + PAGE] == ZEROS:
            _write(descriptor, block[begun:place])
            os.lseek(descriptor, PAGE, os.SEEK_CUR)
            begun = place + PAGE
    _write(descriptor, block[begun:])


def _write(descriptor: int, block: bytes) -> None:
    view = memoryview(block)
    while view:
        view = view[os.write(descriptor, view) :]
