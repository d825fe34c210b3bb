"""Opens the files of a backup: whoever can write to its folder may have put anything in their place.

Every folder on the way is opened by itself and never through a link, and only an ordinary file is read: a FIFO would
block, a device may do anything, and a link leads to files that are none of the backup's. While a file is read it is
hashed, so that what is used is what was compared with the manifest, even if somebody writes to it meanwhile.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from pathlib import Path
from types import TracebackType

from conche.backup.digest import Digest
from conche.backup.sparse import Parts, parts_of
from conche.errors import CheckFailed

__all__ = ["FOLDER", "File", "content", "opened", "proven", "target_of"]

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
"""How a folder is opened that may be anything."""

FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

KINDS = {
    stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder", stat.S_IFLNK: "a link",
}  # fmt: skip

BLOCK = 1 << 20


class File:
    """An ordinary file of a backup, read once from its beginning.

    Attributes:
        path: where it is, for messages.
        seen: its state when it was opened.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path, self.seen = path, os.fstat(descriptor)
        self._stream, self._count = FileIO(descriptor), 0
        self._hash: hashlib._Hash | Digest = hashlib.sha256()

    def __enter__(self) -> File:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close it."""
        self._stream.close()

    def hash_by(self, pool: ThreadPoolExecutor) -> None:
        """Hash what is read in a pool of one thread; nothing of it must have been read yet."""
        self._hash = Digest(pool)

    def read(self, size: int = -1) -> bytes:
        """Read up to `size` bytes, or all that is left."""
        block = self._stream.read(size)
        self._hash.update(block)
        self._count += len(block)
        return block

    def readinto(self, buffer: memoryview) -> int:
        """Read as much as a buffer holds; return how much it was."""
        count = self._stream.readinto(buffer)
        # Another thread would hash it after it has been used again.
        self._hash.update(bytes(buffer[:count]) if isinstance(self._hash, Digest) else buffer[:count])
        self._count += count
        return count

    def blocks(self, most: int) -> Iterator[bytes]:
        """Yield what is left, but not more than `most` bytes."""
        while most and (block := self.read(min(BLOCK, most))):
            most -= len(block)
            yield block

    def head(self, size: int) -> bytes:
        """Return the first bytes, without reading on."""
        return os.pread(self._stream.fileno(), size, 0)

    def parts(self) -> Parts | None:
        """Return where it has content, if it has holes; nothing of it must have been read yet."""
        sparse = self.seen.st_blocks * 512 < self.seen.st_size
        found = parts_of(self._stream, self.seen.st_size) if sparse else None
        self._stream.seek(0)
        return found

    def equals(self, other: File) -> bool:
        """Return whether two files, of which nothing was read yet, are the same, byte by byte."""
        while (block := self._stream.read(BLOCK)) == other._stream.read(BLOCK):
            if not block:
                return True
        return False

    def digest(self) -> str:
        """Read to the end, and return the sha256 of everything."""
        while self.read(BLOCK):
            pass
        return self._hash.hexdigest()

    def is_as(self, size: int, sha256: str) -> bool:
        """Return whether everything that was read, and what is left of it, has this size and hash."""
        for _ in self.blocks(size + 1 - self._count):
            pass
        return self._count == size and self._hash.hexdigest() == sha256


def opened(folder: Path, name: str) -> File:
    """Open the file that has this path below a folder.

    Raises:
        OSError: it is missing or cannot be read; or it, or a folder on the way, is something else, as its words say.
    """
    with _above(folder, name) as (descriptor, last):
        _require(stat.S_IFREG, os.stat(last, dir_fd=descriptor, follow_symlinks=False), name)
        file = File(folder / name, os.open(last, FILE, dir_fd=descriptor))
    try:
        # It may have been replaced since; opening it without waiting has done no harm.
        _require(stat.S_IFREG, file.seen, name)
    except OSError:
        file.close()
        raise
    return file


def content(folder: Path, name: str, most: int) -> bytes:
    """Return what a small file holds.

    Args:
        most: bytes that it may have.

    Raises:
        OSError: as of `opened`; or it is larger.
    """
    with opened(folder, name) as file:
        whole = b"".join(file.blocks(most + 1))
    if len(whole) > most:
        raise OSError(errno.EFBIG, f"it has more than {most} bytes", name)
    return whole


@contextlib.contextmanager
def proven(folder: Path, name: str, size: int, sha256: str) -> Iterator[File]:
    """Provide a file to be read; at the end of the block it must have been what a manifest says.

    Raises:
        CheckFailed: it cannot be read, or what was read has another size or hash.
    """
    try:
        file = opened(folder, name)
    except OSError as error:
        raise _other(folder, name, f"cannot be read: {error.strerror}") from error
    with file:
        yield file
        if not file.is_as(size, sha256):
            raise _other(folder, name, "is not what the manifest says")


def target_of(folder: Path, name: str) -> str:
    """Return where a link of a backup leads.

    Raises:
        OSError: it is no link; or a folder on the way is something else.
    """
    with _above(folder, name) as (descriptor, last):
        return os.readlink(last, dir_fd=descriptor)


@contextlib.contextmanager
def _above(folder: Path, name: str) -> Iterator[tuple[int, str]]:
    """Provide the descriptor of the folder that a path below `folder` is in, and the path's last part."""
    *parents, last = name.split("/")
    if any(part in ("", ".", "..") for part in (*parents, last)) or "\0" in name:
        raise OSError(errno.EINVAL, "its path leads outside", name)
    descriptor = os.open(folder, FOLDER)
    try:
        for part in parents:
            _require(stat.S_IFDIR, os.stat(part, dir_fd=descriptor, follow_symlinks=False), part)
            below = os.open(part, FOLDER, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = below
        yield descriptor, last
    finally:
        os.close(descriptor)


def _require(kind: int, seen: os.stat_result, name: str) -> None:
    found = stat.S_IFMT(seen.st_mode)
    if found != kind:
        wanted = "file" if kind == stat.S_IFREG else "folder"
        raise OSError(errno.EINVAL, f"{name} is {KINDS.get(found, 'something else')}, not a {wanted}", name)


def _other(folder: Path, name: str, why: str) -> CheckFailed:
    return CheckFailed(
        "backup-damaged",
        f"{name} of {folder.name} {why}.",
        looked_at=[str(folder / name)],
        next_command="invoke backup.list    # restore another one\ninvoke backup.verify --all",
    )
