"""Unpacks what the strict reader admits (strict.py) into a folder.

Everything is opened relative to a descriptor of its parent folder, without following links.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from tarfile import TarInfo

from conche.backup.headers import parts, placed, time_ns
from conche.backup.inflate import BLOCK, damaged
from conche.backup.losses import Losses
from conche.backup.strict import TOP, Admitted, Limits, Walked, admitted
from conche.backup.within import FOLDER, File
from conche.backup.xattrs import write_attributes

__all__ = ["extract", "fill"]

PAGE = 4096
ZEROS, HOLE = bytes(PAGE), bytes(BLOCK)


def extract(file: File, into: Path, limits: Limits, unset: Losses | None = None) -> Walked:
    """Unpack a tar.gz into an existing folder; if it fails, what was unpacked stays for the caller to remove.

    Args:
        unset: is told what the file system, or this user, cannot set; default: what is returned is.

    Raises:
        CheckFailed: the archive is damaged, has an entry that no backup has, or breaks its limits.
    """
    walked = Walked()
    try:
        fill(into, admitted(file, limits, walked), walked.losses if unset is None else unset)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTDIR, errno.ELOOP):
            raise damaged(file.path, f"two of its entries conflict: {error.strerror}") from error
        raise
    return walked


def fill(into: Path, entries: Iterable[Admitted], losses: Losses, *, parents: int = 0o700, sync: bool = False) -> None:
    """Write entries into an existing folder.

    Args:
        losses: is told what the file system, or this user, cannot set.
        parents: the mode of folders that are no entries themselves.
        sync: have each file on disk before the next one is written.
    """
    descriptor = os.open(into, FOLDER)
    try:
        folders = _Folders(descriptor, parents)
        try:
            for info, blocks in entries:
                _write_entry(info, blocks, folders, losses, sync=sync)
            folders.finish(losses)
        finally:
            folders.close()
    finally:
        os.close(descriptor)


def _put_on(descriptor: int, info: TarInfo, losses: Losses) -> None:
    """Give an open file or folder what an entry has beside its content."""
    mode = info.mode
    if not _owned(lambda user, group: os.fchown(descriptor, user, group), os.fstat(descriptor), info):
        losses.add("its owner or group", info.name)
        if info.isreg():  # the rights were another's
            mode &= ~(stat.S_ISUID | stat.S_ISGID)
    os.fchmod(descriptor, mode)
    if info.mode & ~stat.S_IMODE(os.fstat(descriptor).st_mode):  # a user may not give rights to a group of others
        losses.add("set-user-id, set-group-id or sticky bit", info.name)
    for lost in write_attributes(descriptor, info):
        losses.add(lost, info.name)
    moment = time_ns(info)
    os.utime(descriptor, ns=(moment, moment))


def _owned(chown: Callable[[int, int], None], seen: os.stat_result, info: TarInfo) -> bool:
    """Give something the owner and group of an entry; return whether it has them. Only root can give files away."""
    for wanted, present, ids in (
        (info.gid, seen.st_gid, (-1, info.gid)),
        (info.uid, seen.st_uid, (info.uid, -1)),
    ):
        if wanted != present:
            try:
                chown(*ids)
            except PermissionError:
                return False
    return True


class _Folders:
    """The folders below a descriptor, opened level by level and never through a link."""

    def __init__(self, top: int, mode: int) -> None:
        self._top, self._mode = top, mode
        self._open: list[tuple[bytes, int]] = []
        self._looks: list[tuple[bytes, TarInfo]] = []

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

    def make(self, name: bytes, info: TarInfo) -> None:
        """Make a folder; `finish` gives it what it has beside its content."""
        self._looks.append((name, info))
        if name == TOP:
            return
        above, last = self.above(name)
        try:
            os.mkdir(last, 0o700, dir_fd=above)
        except FileExistsError:
            os.close(os.open(last, FOLDER, dir_fd=above))

    def finish(self, losses: Losses) -> None:
        """Give the folders what they have beside their content, the deepest first."""
        for name, info in sorted(self._looks, key=_depth, reverse=True):
            above, last = self.above(name)
            descriptor = os.open(last, FOLDER, dir_fd=above)
            try:
                _put_on(descriptor, info, losses)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def close(self) -> None:
        self._close(0)

    def _close(self, kept: int) -> None:
        while len(self._open) > kept:
            os.close(self._open.pop()[1])


def _depth(one: tuple[bytes, TarInfo]) -> tuple[bool, int]:
    return one[0] != TOP, one[0].count(b"/")


def _write_entry(
    info: TarInfo, blocks: Iterator[bytes] | None, folders: _Folders, losses: Losses, *, sync: bool
) -> None:
    name = os.fsencode(info.name)
    if info.issym():
        _write_link(info, *folders.above(name), losses)
    elif info.islnk():
        _write_second_name(os.fsencode(info.linkname), name, folders)
    elif blocks is None:
        folders.make(name, info)
    else:
        _write_file(info, blocks, *folders.above(name), losses, sync=sync)


def _write_link(info: TarInfo, above: int, last: bytes, losses: Losses) -> None:
    os.symlink(os.fsencode(info.linkname), last, dir_fd=above)
    seen = os.stat(last, dir_fd=above, follow_symlinks=False)

    def chown(user: int, group: int) -> None:
        os.chown(last, user, group, dir_fd=above, follow_symlinks=False)

    if not _owned(chown, seen, info):
        losses.add("its owner or group", info.name)
    moment = time_ns(info)
    os.utime(last, ns=(moment, moment), dir_fd=above, follow_symlinks=False)


def _write_second_name(first: bytes, name: bytes, folders: _Folders) -> None:
    """Give a file that is there another name."""
    descriptor, last = folders.above(first)
    above = os.dup(descriptor)
    try:
        below, new = folders.above(name)
        os.link(last, new, src_dir_fd=above, dst_dir_fd=below, follow_symlinks=False)
    finally:
        os.close(above)


def _write_file(info: TarInfo, blocks: Iterator[bytes], above: int, last: bytes, losses: Losses, *, sync: bool) -> None:
    descriptor = os.open(last, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=above)
    try:
        if parts(info) is None:
            for block in blocks:
                _write_sparsely(descriptor, block)
        else:
            for place, block in placed(info, blocks):
                os.lseek(descriptor, place, os.SEEK_SET)
                _write(descriptor, block)
        os.ftruncate(descriptor, info.size)
        _put_on(descriptor, info, losses)
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
