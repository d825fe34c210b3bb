"""Reads gzip files, and the tar in them, within bounds: a header may say that it has as many bytes as it likes."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from conche.backup.within import File
from conche.errors import CheckFailed

__all__ = ["BLOCK", "Forward", "Refuses", "damaged", "inflated", "refusing", "unpacked"]

BLOCK = 1 << 20

HEADERS = 512 << 10
"""Maximum bytes of an entry's headers: two long names, and attributes of 128 KiB, of which ACLs are written twice."""

PADDING = 16 << 20
"""Maximum bytes of zeros after the last entry; GNU tar fills up 10 KiB unless it is told otherwise."""


class Refuses(Exception):
    """An archive is refused; the message says why."""


@contextmanager
def inflated(file: File) -> Iterator[IO[bytes]]:
    """Provide the content of a gzip file as a stream.

    Raises:
        CheckFailed: the file is damaged, or is not gzip.
    """
    from isal import igzip_threaded

    _require_gzip(file)
    unpack: Any = igzip_threaded.open
    # A thread of its own: unpacking goes on while the result is being written.
    with refusing(file.path), unpack(file, "rb", threads=1, block_size=BLOCK) as stream:
        yield stream


def unpacked(file: File, size: int | None = None) -> Iterator[bytes]:
    """Yield the content of a gzip file.

    Args:
        size: bytes that it must have; None for one that this machine has just written.

    Raises:
        CheckFailed: it is damaged, or has less or more; more than `size` bytes are never yielded.
    """
    count = 0
    with inflated(file) as stream:
        while block := stream.read(BLOCK):
            count += len(block)
            if size is not None and count > size:
                raise Refuses(f"it unpacks to more than {size} bytes, which its manifest contradicts")
            yield block
        if size not in (None, count):
            raise Refuses(f"it unpacks to {count} bytes, not {size}, which its manifest contradicts")


OTHERS = {b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zXZ": "xz", b"BZh": "bzip2", b"\x04\x22\x4d\x18": "lz4"}
"""Other programs that archives may be compressed with, by their first bytes."""


def _require_gzip(file: File) -> None:
    """Refuse an archive that another program has compressed, and say how to convert it."""
    path, begin = file.path, file.head(6)
    for magic, program in OTHERS.items():
        if begin.startswith(magic):
            name = path.name.split(".tar")[0] + ".tar.gz"
            raise CheckFailed(
                "archive-not-gzip",
                f"{path.name} was compressed by {program}; only gzip can be read here.",
                looked_at=[str(path)],
                next_command=f"{program} -dc '{path}' | gzip > '{path.with_name(f'.{name}')}'\n"
                f"rm '{path}'; mv '{path.with_name(f'.{name}')}' '{path.with_name(name)}'",
            )


@contextmanager
def refusing(path: Path) -> Iterator[None]:
    """Turn what is wrong with an archive into the error that says so.

    Raises:
        CheckFailed: it is damaged, or is refused.
    """
    from isal import isal_zlib

    broken: Any = (Refuses, EOFError, ValueError, OverflowError, isal_zlib.error)
    try:
        yield
    except (*broken, zlib.error, gzip.BadGzipFile) as error:
        raise damaged(path, str(error) or type(error).__name__) from error


def damaged(path: Path, why: str) -> CheckFailed:
    """Return the error for an archive that cannot be used."""
    return CheckFailed(
        "archive-refused",
        f"{path.name} is rejected: {why}.",
        looked_at=[str(path)],
        next_command="invoke backup.list    # another backup",
    )


class Forward:
    """A stream that can be read and skipped, in which it is known where one is."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._block, self._start, self._at = stream, b"", 0, 0
        self._headers: int | None = None

    def bound(self, most: int | None = HEADERS) -> None:
        """Have at most so many bytes read from now on: a header may say that it has as many as it likes."""
        self._headers = most

    def tell(self) -> int:
        return self._start + self._at

    def seek(self, place: int) -> int:
        if place < self.tell():
            raise Refuses("one of its headers points backwards")
        while place > self._start + len(self._block) and self._more():
            pass
        self._at = min(place - self._start, len(self._block))
        return self.tell()

    def read(self, size: int) -> bytes:
        if self._headers is not None:
            self._headers -= max(size, 0)
            if self._headers < 0:
                raise Refuses("one of its headers is larger than any of a backup")
        parts, left = [], size
        while left > 0:
            if self._at == len(self._block) and not self._more():
                break
            part = self._block[self._at : self._at + left]
            parts.append(part)
            self._at += len(part)
            left -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def has_more_than_zeros(self, place: int) -> bool:
        """Return whether anything but zeros follows this position, or too many; reads to the end."""
        self.seek(place)
        count = 0
        while block := self.read(BLOCK):
            count += len(block)
            if count > PADDING or block.strip(b"\0"):
                return True
        return False

    def _more(self) -> bool:
        """Read the next block; the position does not change."""
        self._start += len(self._block)
        self._block, self._at = self._stream.read(BLOCK), 0
        return bool(self._block)
