"""System calls that Python has no function for."""

from __future__ import annotations

import ctypes
import errno
import functools
import os
from pathlib import Path

__all__ = ["begin_writeback", "exchange", "file_system", "write_out"]


def begin_writeback(descriptor: int) -> None:
    """Have the kernel start flushing a file to disk (sync_file_range(2)), so that a later sync waits less."""
    sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if sync_file_range is not None:
        begin = 2  # SYNC_FILE_RANGE_WRITE
        sync_file_range(descriptor, ctypes.c_int64(0), ctypes.c_int64(0), begin)


def write_out(descriptor: int) -> bool:
    """Have all of a file's changed pages written to disk, and wait (sync_file_range(2)); return whether that was done.

    Not a sync: the disk may keep them in a cache of its own. Whoever writes to one of these pages again, through mmap
    too, changes the file's times.
    """
    libc = _libc()
    if not hasattr(libc, "sync_file_range"):
        return False
    everything = 1 | 2 | 4  # SYNC_FILE_RANGE_WRITE_AND_WAIT, all pages; with less, those under way are passed over
    done: int = libc.sync_file_range(descriptor, ctypes.c_int64(0), ctypes.c_int64(0), everything)
    return done == 0


def file_system(of: int | str) -> int:
    """Return the number that statfs(2) has for the kind of file system that a file is on; 0 if it cannot be told."""
    libc, answer = _libc(), ctypes.create_string_buffer(512)
    if not hasattr(libc, "statfs"):
        return 0
    done = libc.fstatfs(of, answer) if isinstance(of, int) else libc.statfs(os.fsencode(of), answer)
    return ctypes.cast(answer, ctypes.POINTER(ctypes.c_ulong)).contents.value if done == 0 else 0


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


def exchange(first: Path, second: Path) -> None:
    """Swap two files or folders, atomically where kernel and file system can (`RENAME_EXCHANGE`, renameat2(2)).

    Otherwise it takes three renames, and `first` is missing for a moment.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    renameat2 = getattr(libc, "renameat2", None)
    if renameat2 is not None:
        at_cwd, rename_exchange = -100, 2
        if renameat2(at_cwd, os.fsencode(first), at_cwd, os.fsencode(second), rename_exchange) == 0:
            return
        number = ctypes.get_errno()
        if number not in (errno.EINVAL, errno.ENOSYS):
            raise OSError(number, os.strerror(number), str(first), None, str(second))
    aside = second.with_name(second.name + ".exchanged")
    os.replace(first, aside)
    os.replace(second, first)
    os.replace(aside, second)
