"""System calls that Python has no function for."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

__all__ = ["begin_writeback", "exchange"]


def begin_writeback(descriptor: int) -> None:
    """Have the kernel start flushing a file to disk (sync_file_range(2)), so that a later sync waits less."""
    sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if sync_file_range is not None:
        begin = 2  # SYNC_FILE_RANGE_WRITE
        sync_file_range(descriptor, ctypes.c_int64(0), ctypes.c_int64(0), begin)


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
