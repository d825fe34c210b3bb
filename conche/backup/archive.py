"""Writes archives: ordinary tar.gz files made of many small gzip members.

Where a member ends depends only on names and sizes, so an unchanged file gives the same compressed bytes wherever it is
in the archive. Two cores can compress in parallel, and a repository that cuts the archive there stores equal pieces
only once (sync.py). Concatenated members are one gzip file (RFC 1952, 2.2): plain `tar xzf` reads them.
"""

from __future__ import annotations

import functools
import os
import tarfile
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tarfile import TarInfo
from typing import BinaryIO

from conche.backup.digest import WORTH_A_THREAD, Digest
from conche.backup.entries import BLOCK, ZEROS
from conche.backup.headers import header, stored
from conche.syscalls import begin_writeback

__all__ = ["Archive", "ArchiveWriter", "Compressor", "Group", "compressing"]

LEVEL = 2
"""The best trade-off in isal; 3 takes twice as long to save another 2 %."""

LARGE = 32 * 1024
"""Size in bytes from which a file gets a gzip member of its own."""

IN_FLIGHT = 6

WRITEBACK = 16 << 20
"""Bytes after which flushing to disk is started: leaving all of it to the end would take as long again."""

GZIP = 31
"""zlib's `wbits` for a window of 32 KiB and a gzip header."""


@dataclass(frozen=True)
class Group:
    """Entries of an archive that are in gzip members of their own.

    Attributes:
        seen: what was seen of each of their sources (sight.py), in order; nothing of one that has to be read again.
        pieces: number of these gzip members.
        members: number of entries.
        content: total size of the files among them, unpacked and without holes, in bytes.
        length: bytes of the tar in these gzip members.
    """

    seen: tuple[bytes, ...]
    pieces: int
    members: int
    content: int
    length: int


@dataclass(frozen=True)
class Archive:
    """A gzip file that was written.

    Attributes:
        members: number of entries of the tar in it; 0 if it holds no tar.
        content: total size of the files in it, unpacked and without holes, in bytes.
        pieces: compressed size of each gzip member in bytes, in order.
    """

    size: int
    sha256: str
    members: int
    content: int
    pieces: tuple[int, ...]


class NotTheGroup(Exception):
    """Gzip members that were to be taken over hold something else."""


class Compressor:
    """Compresses content into gzip members on two threads, hashes them on another, and writes them in order.

    Attributes:
        length: bytes of all content.
    """

    def __init__(self, stream: BinaryIO, pool: ThreadPoolExecutor, hashing: ThreadPoolExecutor) -> None:
        self._stream, self._pool = stream, pool
        self._pending: deque[Future[bytes] | bytes] = deque()
        self._member: list[bytes] = []
        self._length = 0
        self._hash = Digest(hashing)
        self._pieces: list[int] = []
        self._unwritten = 0
        self.length = 0

    def write(self, content: bytes) -> None:
        """Add content; a member ends after `BLOCK` bytes at the latest."""
        self._member.append(content)
        self._length += len(content)
        self.length += len(content)
        if self._length >= BLOCK:
            self.cut()

    def cut(self) -> None:
        """End the current gzip member."""
        if not self._length:
            return
        member, threaded = self._member, self._length >= WORTH_A_THREAD
        self._member, self._length = [], 0
        self._pending.append(self._pool.submit(_compress, member) if threaded else _compress(member))
        while len(self._pending) > IN_FLIGHT:
            self._write_one()

    def put(self, member: bytes) -> None:
        """Add a gzip member that is finished already."""
        self.cut()
        self.length += unpacked_length(member)
        self._pending.append(member)
        while len(self._pending) > IN_FLIGHT:
            self._write_one()

    @property
    def count(self) -> int:
        """Number of members that have ended."""
        return len(self._pieces) + len(self._pending)

    def mark(self) -> tuple[int, Digest, int, int]:
        """Return a position that `back` can return to."""
        self.cut()
        self._drain()
        return self._stream.tell(), self._hash.copy(), len(self._pieces), self.length

    def back(self, mark: tuple[int, Digest, int, int]) -> None:
        """Discard what was written since the mark."""
        self._member, self._length = [], 0
        self._drain()
        place, self._hash, count, self.length = mark
        del self._pieces[count:]
        self._stream.seek(place)
        self._stream.truncate()

    def finish(self) -> tuple[int, str, tuple[int, ...]]:
        """Write what is left; return size, sha256 and pieces of everything written."""
        self.cut()
        if not self._pieces and not self._pending:
            self._pending.append(_compress([]))
        self._drain()
        self._stream.flush()
        begin_writeback(self._stream.fileno())
        return self._stream.tell(), self._hash.hexdigest(), tuple(self._pieces)

    def _drain(self) -> None:
        while self._pending:
            self._write_one()

    def _write_one(self) -> None:
        first = self._pending.popleft()
        compressed = first if isinstance(first, bytes) else first.result()
        self._stream.write(compressed)
        self._hash.update(compressed)
        self._pieces.append(len(compressed))
        self._unwritten += len(compressed)
        if self._unwritten > WRITEBACK:
            self._unwritten = 0
            begin_writeback(self._stream.fileno())


class ArchiveWriter:
    """Writes entries as a tar.gz.

    Attributes:
        groups: the entries by the gzip members that they are in; of the last ones only if those hold nothing else.
    """

    def __init__(self, compressor: Compressor) -> None:
        self._to = compressor
        self._members = self._content = 0
        self._before = (0, 0)
        self._begun, self._seen, self._is_large = (0, 0, 0, 0), list[bytes](), False
        self.groups: list[Group] = []

    def add(self, info: TarInfo, blocks: Iterable[bytes] = ()) -> None:
        """Add one entry; the blocks of a file must have exactly the size in its header, without its holes."""
        size = stored(info)
        if size >= LARGE or zlib.crc32(info.name.encode(errors="surrogateescape")) % 8 == 0:
            self._end_group()
        self._to.write(header(info))
        for block in blocks:
            self._to.write(block)
        self._to.write(bytes(-size % tarfile.BLOCKSIZE))
        if size >= LARGE:
            self._to.cut()
        self._members += 1
        self._content += size
        self._is_large = size >= LARGE

    def saw(self, what: bytes) -> None:
        """Note what was seen of the source of the entry that was just added, or was left out."""
        self._seen.append(what)
        if self._is_large:
            self._end_group()

    def put(self, group: Group, pieces: Iterable[bytes]) -> None:
        """Add entries as the gzip members that another archive has of them."""
        self._end_group()
        end = self._to.length + group.length
        for piece in pieces:
            self._to.put(piece)
        if self._to.length != end:
            raise NotTheGroup
        self._members += group.members
        self._content += group.content
        self._seen += group.seen
        self._end_group()

    def _end_group(self) -> None:
        self._to.cut()
        now, self._is_large = (self._to.count, self._members, self._content, self._to.length), False
        if self._seen:
            count = [one - before for one, before in zip(now, self._begun, strict=True)]
            self.groups.append(Group(tuple(self._seen), *count))
        self._begun, self._seen = now, []

    def mark(self) -> object:
        """Return a position that `back` can return to."""
        self._end_group()
        self._before = (self._members, self._content)
        return self._to.mark()

    def back(self, mark: object) -> None:
        """Discard what was added since the mark."""
        assert isinstance(mark, tuple)
        self._members, self._content = self._before
        self._to.back(mark)
        self._begun, self._seen = (self._to.count, *self._before, self._to.length), []
        self._is_large = False

    def finish(self) -> Archive:
        """Finish the archive."""
        self._to.write(bytes(2 * tarfile.BLOCKSIZE))
        size, digest, pieces = self._to.finish()
        return Archive(size, digest, self._members, self._content, pieces)


@contextmanager
def compressing(path: Path) -> Iterator[Compressor]:
    """Provide a compressor that writes to a new file (0600)."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as stream, ThreadPoolExecutor(2) as pool, ThreadPoolExecutor(1) as hashing:
        yield Compressor(stream, pool, hashing)


def unpacked_length(member: bytes) -> int:
    """Return how many bytes a gzip member unpacks to, as it says itself (RFC 1952, 2.3.1).

    Raises:
        NotTheGroup: it is none.
    """
    if len(member) < 18 or not member.startswith(b"\x1f\x8b\x08"):
        raise NotTheGroup
    return int.from_bytes(member[-4:], "little")


def _compress(chunks: list[bytes]) -> bytes:
    content = b"".join(chunks)
    return _zeros() if content == ZEROS else _gzip(content)


@functools.cache
def _zeros() -> bytes:
    """Compress a block of zeros, once: a sparse file may have thousands of them."""
    return _gzip(ZEROS)


def _gzip(content: bytes) -> bytes:
    from isal import isal_zlib

    compressed: bytes = isal_zlib.compress(content, LEVEL, GZIP)
    return compressed
