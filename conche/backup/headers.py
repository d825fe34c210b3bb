"""Writes the headers of archives' entries, as GNU tar does: in its own format, or in that of POSIX where it says more.

POSIX calls the records that a header of its has for times to the nanosecond, attributes and holes PAX records.
Sources: https://pubs.opengroup.org/onlinepubs/9799919799/utilities/pax.html and GNU tar's manual, "Sparse Formats".
"""

from __future__ import annotations

import functools
import os
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from tarfile import TarInfo
from typing import Any, cast

from conche.backup.acl import ACCESS, DEFAULT, text

__all__ = [
    "SECOND", "add", "attach", "attributes", "drop", "header", "parts", "placed", "set_parts", "set_time", "stored",
    "time_ns", "xattr_of",
]  # fmt: skip

SECOND = 1_000_000_000
"""Nanoseconds of a second."""

XATTR = "SCHILY.xattr."
"""What the names of PAX records for extended attributes begin with."""

ACLS = ((b"SCHILY.acl.access", ACCESS), (b"SCHILY.acl.default", DEFAULT))
"""PAX records that GNU tar takes ACLs from, once it has set the mode; from an attribute it would take them before."""

OCTAL_8, OCTAL_12 = 8**7, 8**11
"""What the numbers in a header's fields of eight and twelve bytes are smaller than."""


def time_ns(info: TarInfo) -> int:
    """Return the time of an entry in nanoseconds since 1970.

    Raises:
        ValueError: it has a time that is none.
    """
    said = info.pax_headers.get("mtime")
    return int(info.mtime) * SECOND if said is None else _nanoseconds(said)


def add(info: TarInfo, key: str, value: str) -> None:
    """Give an entry a PAX record."""
    info.pax_headers = {**info.pax_headers, key: value} if info.pax_headers else {key: value}


def drop(info: TarInfo, key: str) -> None:
    """Take a PAX record from an entry that may have it."""
    if key in info.pax_headers:
        info.pax_headers = {other: value for other, value in info.pax_headers.items() if other != key}


def set_time(info: TarInfo, moment: int) -> None:
    """Set the time of an entry, in nanoseconds since 1970."""
    info.mtime, part = divmod(moment, SECOND)
    if not part:
        drop(info, "mtime")
    elif moment > 0:
        add(info, "mtime", f"{info.mtime}.{part:09d}")
    else:
        add(info, "mtime", f"-{-moment // SECOND}.{-moment % SECOND:09d}")


def _nanoseconds(said: str) -> int:
    whole, _, part = said.removeprefix("-").partition(".")
    if not (whole + part).isdecimal() or not said.isascii() or len(said) > 40:
        raise ValueError(f"{said[:40]!r} is no time")
    size = int(whole or "0") * SECOND + int(part[:9].ljust(9, "0"))
    return -size if said.startswith("-") else size


def attach(info: TarInfo, name: str, value: bytes) -> None:
    """Give an entry an extended attribute."""
    key = name.replace("%", "%25").replace("=", "%3D")
    add(info, XATTR + key, value.decode(errors="surrogateescape"))


def xattr_of(key: str) -> str | None:
    """Return the extended attribute that a PAX record is for; None if it is for something else."""
    if not key.startswith(XATTR):
        return None
    return key.removeprefix(XATTR).replace("%3D", "=").replace("%25", "%")


def attributes(info: TarInfo) -> dict[str, bytes]:
    """Return the extended attributes of an entry."""
    found = ((xattr_of(key), value) for key, value in info.pax_headers.items())
    return {name: value.encode(errors="surrogateescape") for name, value in found if name is not None}


def parts(info: TarInfo) -> Sequence[tuple[int, int]] | None:
    """Return where a sparse file has content, as places and lengths in bytes; None for a file without holes."""
    found: Any = info.sparse
    return cast("Sequence[tuple[int, int]] | None", found)


def set_parts(info: TarInfo, found: Sequence[tuple[int, int]] | None) -> None:
    """Say where a sparse file has content."""
    info.sparse = cast("Any", found)


def stored(info: TarInfo) -> int:
    """Return how many bytes of content an archive has of an entry: of a sparse file those that are no holes."""
    sparse = parts(info)
    return info.size if sparse is None else sum(length for _, length in sparse)


def placed(info: TarInfo, blocks: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield the blocks of a file's stored content, each with its place in the file."""
    sparse = parts(info)
    if sparse is None:
        place = 0
        for whole in blocks:
            yield place, whole
            place += len(whole)
        return
    given, block = iter(blocks), memoryview(b"")
    for place, length in sparse:
        done = 0
        while done < length:
            block = block if block else memoryview(next(given))
            part = block[: length - done]
            yield place + done, bytes(part)
            done += len(part)
            block = block[len(part) :]


def header(info: TarInfo) -> bytes:
    """Return the header of an entry, with all of it that was looked at and nothing else."""
    name, link = os.fsencode(info.name) + b"/" * info.isdir(), os.fsencode(info.linkname)
    if info.pax_headers or parts(info) is not None:
        return _with_time(info, name, link) or _posix(info, name, link)
    mtime = int(info.mtime)
    size = info.size if info.isreg() else 0
    blocks = []
    if len(link) > 100:
        blocks.append(_long(b"K", link))
    if len(name) > 100:
        blocks.append(_long(b"L", name))
    blocks.append(_block(info, name[:100], link[:100], size, mtime, tarfile.GNU_MAGIC))
    return b"".join(blocks)


def _long(kind: bytes, name: bytes) -> bytes:
    content = name + b"\0"
    info = TarInfo()
    info.mode = 0
    info.type = kind
    return _block(info, b"././@LongLink", b"", len(content), 0, tarfile.GNU_MAGIC) + _padded(content)


def _with_time(info: TarInfo, name: bytes, link: bytes) -> bytes:
    """Return the header of an entry that needs a PAX record for its time alone, as most do; nothing if for more."""
    simple = len(info.pax_headers) == 1 and parts(info) is None and max(len(name), len(link)) <= 100
    said = info.pax_headers.get("mtime") if simple else None
    size, mtime = info.size if info.isreg() else 0, int(info.mtime)
    if said is None or not _fits(info, size, mtime):
        return b""
    record = _record(b"mtime", said.encode())
    return _before(len(record)) + _padded(record) + _block(info, name, link, size, mtime, tarfile.POSIX_MAGIC)


@functools.cache
def _before(size: int) -> bytes:
    """Return the block that stands before so many bytes of PAX records."""
    info = TarInfo()
    info.type = tarfile.XHDTYPE
    return _block(info, b"././@PaxHeader", b"", size, 0, tarfile.POSIX_MAGIC)


def _posix(info: TarInfo, name: bytes, link: bytes) -> bytes:
    moment, size, content = time_ns(info), info.size if info.isreg() else 0, b""
    records: list[tuple[bytes, bytes]] = []
    if "mtime" in info.pax_headers or not 0 <= moment < OCTAL_12 * SECOND:
        set_time(anew := TarInfo(), moment)
        records.append((b"mtime", (anew.pax_headers.get("mtime") or str(anew.mtime)).encode()))
    short = name
    if (sparse := parts(info)) is not None:
        lines = bytearray(b"%d\n" % len(sparse))
        for pair in sparse:
            lines += b"%d\n%d\n" % pair
        content = _padded(bytes(lines))
        records += [
            (b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.name", name),
            (b"GNU.sparse.realsize", b"%d" % size),
        ]  # fmt: skip
        size = len(content) + stored(info)
        short = b"GNUSparseFile.0/" + name.rpartition(b"/")[2]
    elif len(name) > 100:
        records.append((b"path", name))
    if len(link) > 100:
        records.append((b"linkpath", link))
    numbers_ = ((b"uid", info.uid, OCTAL_8), (b"gid", info.gid, OCTAL_8), (b"size", size, OCTAL_12))
    records += [(key, b"%d" % number) for key, number, most in numbers_ if number >= most]
    records += sorted(
        (key.encode(errors="surrogateescape"), value.encode(errors="surrogateescape"))
        for key, value in info.pax_headers.items()
        if xattr_of(key) is not None
    )
    given = attributes(info)
    records += [(key, text(given[name]).encode()) for key, name in ACLS if name in given]
    said = b"".join(_record(*one) for one in records)
    magic = tarfile.POSIX_MAGIC
    own = _block(info, short[:100], link[:100], size, moment // SECOND, magic, clipped=True) + content
    if not said:
        return own
    return _before(len(said)) + _padded(said) + own


def _record(key: bytes, value: bytes) -> bytes:
    """Return a PAX record: its length, which counts its own digits, and what it says."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)


def _padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % tarfile.BLOCKSIZE)


def _block(
    info: TarInfo, name: bytes, link: bytes, size: int, mtime: int, magic: bytes, *, clipped: bool = False
) -> bytes:
    """Return a block of a header.

    Args:
        clipped: numbers that are too large are 0, since a PAX record has them; else they are written as GNU tar does.
    """
    kind = tarfile.REGTYPE if info.isreg() else info.type
    if _fits(info, size, mtime):
        numbers = b"%07o\0%07o\0%07o\0%011o\0%011o\0" % (info.mode & 0o7777, info.uid, info.gid, size, mtime)
    else:
        owner = [_number(number, 7, clipped=clipped) for number in (info.uid, info.gid)]
        rest = [_number(number, 11, clipped=clipped) for number in (size, mtime)]
        numbers = b"%07o\0" % (info.mode & 0o7777) + b"".join([*owner, *rest])
    head, (tail, of_tail) = name.ljust(100, b"\0") + numbers, _tail(kind, link, magic)
    return head + b"%06o\0 " % (sum(head) + of_tail) + tail


@functools.lru_cache
def _tail(kind: bytes, link: bytes, magic: bytes) -> tuple[bytes, int]:
    """Return what stands after a header's checksum, and what it and the blanks in place of that add to it."""
    tail = kind + link.ljust(100, b"\0") + magic.ljust(255, b"\0")
    return tail, sum(tail) + 8 * ord(" ")


def _fits(info: TarInfo, size: int, mtime: int) -> bool:
    """Return whether all numbers have room in their fields."""
    return 0 <= info.uid < OCTAL_8 > info.gid >= 0 <= size < OCTAL_12 > mtime >= 0


def _number(number: int, digits: int, *, clipped: bool) -> bytes:
    if 0 <= number < 8**digits:
        return b"%0*o\0" % (digits, number)
    if clipped:
        return b"0" * digits + b"\0"
    return (b"\x80" if number >= 0 else b"\xff") + (number % (1 << 8 * digits)).to_bytes(digits, "big")
