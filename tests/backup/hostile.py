"""Archives that a stranger might put in place of ours: the next attack is one more line."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from tarfile import TarInfo

from conche.backup.sparse import MOST_PARTS

Content = list[tuple[TarInfo, bytes]]


def file(name: str, content: bytes = b"x", **more: object) -> tuple[TarInfo, bytes]:
    info = TarInfo(name)
    info.size, info.uid, info.gid = len(content), os.getuid(), os.getgid()
    for key, value in more.items():
        setattr(info, key, value)
    return info, content


def entry(name: str, kind: bytes, link: str = "", **more: object) -> tuple[TarInfo, bytes]:
    return file(name, b"", type=kind, linkname=link, **more)


def pack(path: Path, content: Content, form: int = tarfile.GNU_FORMAT) -> Path:
    with tarfile.open(path, "w:gz", format=form) as archive:
        for info, data in content:
            archive.addfile(info, io.BytesIO(data))
    return path


LONG = "d" * 200
CHAIN = [entry(f"{'/'.join([LONG] * depth)}/l{depth}", tarfile.SYMTYPE, "/".join([LONG] * 3)) for depth in (1, 2)]

HOSTILE: dict[str, Callable[[], Content]] = {
    "absolute": lambda: [file("/canary/hit")],
    "parent": lambda: [file("../canary/hit")],
    "parent inside": lambda: [file("a/../../canary/hit")],
    "dot": lambda: [file("a/./b")],
    "empty part": lambda: [file("a//b")],
    "link out": lambda: [entry("l", tarfile.SYMTYPE, "../canary")],
    "link absolute": lambda: [entry("l", tarfile.SYMTYPE, "/etc/passwd")],
    "link empty": lambda: [entry("l", tarfile.SYMTYPE, "")],
    "link through a link": lambda: [entry("l", tarfile.SYMTYPE, "."), entry("m", tarfile.SYMTYPE, "l/../canary")],
    "file below a link": lambda: [entry("l", tarfile.SYMTYPE, "d"), entry("d", tarfile.DIRTYPE), file("l/hit")],
    "link below a link": lambda: [entry("l", tarfile.SYMTYPE, "d"), entry("l/m", tarfile.SYMTYPE, "x")],
    "link, then file of its name": lambda: [entry("l", tarfile.SYMTYPE, "d"), file("l")],
    "hard link out": lambda: [entry("l", tarfile.LNKTYPE, "../canary/file")],
    "hard link to a link (CVE-2026-11940)": lambda: [
        entry("a/b/l", tarfile.SYMTYPE, "../../x"), entry("l", tarfile.LNKTYPE, "a/b/l"),
    ],
    "hard link absolute": lambda: [entry("l", tarfile.LNKTYPE, "/etc/passwd")],
    "hard link through the parent": lambda: [file("a"), entry("d/l", tarfile.LNKTYPE, "d/../../canary/file")],
    "hard link to a file by another name": lambda: [file("a"), entry("l", tarfile.LNKTYPE, "./d/../a")],
    "hard link before its file": lambda: [entry("l", tarfile.LNKTYPE, "a"), file("a")],
    "hard link to itself": lambda: [entry("l", tarfile.LNKTYPE, "l")],
    "hard link to nothing": lambda: [entry("l", tarfile.LNKTYPE, "")],
    "hard link to a folder": lambda: [entry("d", tarfile.DIRTYPE), entry("l", tarfile.LNKTYPE, "d")],
    "hard link to a hard link": lambda: [
        file("a"), entry("l", tarfile.LNKTYPE, "a"), entry("m", tarfile.LNKTYPE, "l"),
    ],
    "hard link twice": lambda: [file("a"), entry("l", tarfile.LNKTYPE, "a"), entry("l", tarfile.LNKTYPE, "a")],
    "file below a hard link": lambda: [file("a"), entry("l", tarfile.LNKTYPE, "a"), file("l/hit")],
    "a chain of long links (CVE-2025-4517)": lambda: [
        *CHAIN, entry("out", tarfile.SYMTYPE, f"{LONG}/l1/../../../canary"),
    ],
    "device": lambda: [entry("d", tarfile.CHRTYPE, devmajor=1, devminor=3)],
    "block device": lambda: [entry("d", tarfile.BLKTYPE)],
    "fifo": lambda: [entry("f", tarfile.FIFOTYPE)],
    "twice": lambda: [file("a"), file("a", b"y")],
    "file where a folder is": lambda: [file("a/b"), file("a")],
    "folder where a file is": lambda: [file("a"), file("a/b")],
    "link where a folder is": lambda: [file("a/b"), entry("a", tarfile.SYMTYPE, "c")],
    "folder below a file": lambda: [file("a"), entry("a/b/c", tarfile.DIRTYPE)],
    "owner that chown takes for none": lambda: [file("a", uid=(1 << 32) - 1)],
    "owner that there cannot be": lambda: [file("a", gid=1 << 40)],
    "time that there cannot be": lambda: [file("a", mtime=1 << 60)],
    "contiguous file": lambda: [file("a", type=tarfile.CONTTYPE)],
    "too deep": lambda: [file("/".join(["d"] * 300))],
    "too long": lambda: [file("/".join(["d" * 200] * 30))],
    "too many": lambda: [file(f"f{number}") for number in range(101)],
    "too much": lambda: [file("f", bytes(10_001))],
}  # fmt: skip


def header(name: bytes, size: bytes, kind: bytes = b"0") -> bytes:
    block = bytearray(512)
    block[: len(name)] = name
    block[100:108], block[108:116], block[116:124] = b"0000644\0", b"0000000\0", b"0000000\0"
    block[124:136], block[136:148] = size.ljust(12, b"\0"), b"00000000000\0"
    block[156:157], block[257:265], block[148:156] = kind, b"ustar  \0", b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    return bytes(block)


def long_header(kind: bytes, size: int = 1 << 30) -> bytes:
    return header(b"././@LongLink", b"%011o\0" % size, kind)


def sparse(rest: bytes) -> bytes:
    """A header of GNU's sparse format that says that its map goes on."""
    block = bytearray(header(b"f", b"00000000000\0", b"S"))
    block[482] = 1
    block[148:156] = b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    return bytes(block) + rest


def named(kind: bytes, number: int) -> bytes:
    """An entry, or a link, with a path of 4,000 bytes that is like no other's and leads nowhere known."""
    name = b"/".join([b"%06d" % number, *[b"n" * 200] * 19])
    long = long_header(b"L", len(name)) + name.ljust(4096, b"\0")
    if kind == b"2":
        long += long_header(b"K", len(name)) + name.ljust(4096, b"\0")
    return long + header(b"x", b"00000000000\0", kind)


def pax(content: bytes) -> bytes:
    return long_header(b"x", len(content)) + content.ljust(-len(content) % 512 + len(content), b"\0")


def sparse_pax(size: str, parts: str, data: bytes = b"", version: str = "1.0") -> bytes:
    """A sparse file in the form that GNU tar writes today."""
    major, _, minor = version.partition(".")
    said = {"GNU.sparse.major": major, "GNU.sparse.minor": minor, "GNU.sparse.name": "f", "GNU.sparse.realsize": size}
    numbers = parts.replace(" ", "\n").encode() + b"\n"
    content = numbers.ljust(-len(numbers) % 512 + len(numbers), b"\0") + data
    records = b"".join(record(key, value) for key, value in said.items() if value)
    return pax(records) + header(b"f", b"%011o\0" % len(content)) + content.ljust(-len(content) % 512 + len(content))


def scattered(number: int) -> bytes:
    """A sparse file in so many parts of a byte each."""
    parts = "\n".join([f"{number}", *(f"{place * 3}\n1" for place in range(number))])
    return sparse_pax("9999999", parts, bytes(number))


def record(key: str, value: str) -> bytes:
    """A PAX record of less than a hundred bytes."""
    length = len(key) + len(value) + 5
    return f"{length} {key}={value}\n".encode()


HOLES = {
    "parts that overlap": sparse_pax("100", "2 0 10 5 10", bytes(20)),
    "parts out of order": sparse_pax("100", "2 50 10 0 10", bytes(20)),
    "a part outside": sparse_pax("100", "1 95 10", bytes(10)),
    "a part far outside": sparse_pax("100", f"1 {1 << 63} 1", bytes(1)),
    "less content than its parts": sparse_pax("100", "1 0 20", bytes(10)),
    "more content than its parts": sparse_pax("100", "1 0 10", bytes(20)),
    "more parts than it lists": sparse_pax("100", "3 0 10 20 10", bytes(20)),
    "too many parts": sparse_pax("100", f"{1 << 40}"),
    "a number that is none": sparse_pax("100", "1 0 -10", bytes(10)),
    "a number without end": sparse_pax("100", "1" * 600),
    "no size": sparse_pax("", "1 0 10", bytes(10)),
    "a size that there cannot be": sparse_pax(str(1 << 62), "1 0 10", bytes(10)),
    "an older form": sparse_pax("100", "1 0 10", bytes(10), version="0.1"),
    "a form to come": sparse_pax("100", "1 0 10", bytes(10), version="2.0"),
    "more than it may": sparse_pax("100000", "1 0 10001", bytes(10001)),
}
"""Sparse files that are refused; each says that a file has..."""

RECORDS = {
    "too long": b"99 path=x\n",
    "too short": b"5 path=x\n",
    "without a length": b"path=x\n",
    "negative": b"-9 path=x\n",
    "without a value": b"8 path\n\n",
    "a time that is none": record("mtime", "yesterday"),
    "a time without end": record("mtime", "1" * 60),
    "an owner below none": record("uid", "-1"),
    "an owner above all": record("uid", str(1 << 32)),
    "a size below none": record("size", "-1"),
    "a path outside": record("path", "../canary/hit"),
    "a NUL in the path": record("path", "a\0b"),
}
"""PAX records that are refused."""


MEGABYTE = bytes(1 << 20)
GOES_ON = b"1" * 504 + b"\1" + bytes(7)
DIGITS_ALONE = pax(b"1" * (200 << 10))
ENDLESS_MAP = b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n"

ATTRIBUTE = b"100023 SCHILY.xattr.user.a=" + b"v" * (100023 - 27 - 1) + b"\n"

COSTLY: dict[str, Callable[[], Iterator[tuple[bytes, int]]]] = {
    "a GNU long name of 1 GiB": lambda: iter([(long_header(b"L"), 1), (MEGABYTE, 1024)]),
    "a GNU long link of 1 GiB": lambda: iter([(long_header(b"K"), 1), (MEGABYTE, 1024)]),
    "a PAX header of 1 GiB": lambda: iter([(long_header(b"x"), 1), (MEGABYTE, 1024)]),
    "a global PAX header of 1 GiB": lambda: iter([(long_header(b"g"), 1), (MEGABYTE, 1024)]),
    "a Solaris header of 1 GiB": lambda: iter([(long_header(b"X"), 1), (MEGABYTE, 1024)]),
    "200,000 long names of one entry": lambda: iter([((long_header(b"L", 10) + bytes(512)) * 1000, 200)]),
    "a sparse map without end": lambda: iter([(sparse(GOES_ON), 1), (GOES_ON * 1024, 500)]),
    "a PAX sparse map without end": lambda: iter(
        [(pax(ENDLESS_MAP) + header(b"f", b"77777777777\0") + b"9999999999\n", 1), (b"1\n" * 256 * 1024, 500)]
    ),
    "200,000 digits in a row, a hundred times": lambda: iter([(DIGITS_ALONE + header(b"f", b"0" * 11), 100)]),
    "attributes of a hundred files": lambda: (
        (pax(ATTRIBUTE) + header(b"%d" % number, b"0" * 11), 1) for number in range(100)
    ),
    "a sparse file in as many parts as there may be": lambda: iter([(scattered(MOST_PARTS), 1)]),
    "zeros without end": lambda: iter([(header(b"f", b"0" * 11), 1), (MEGABYTE, 4096)]),
    "3,000 files with long names": lambda: ((named(b"0", number), 1) for number in range(3_000)),
    "5,000 folders with long names": lambda: ((named(b"5", number), 1) for number in range(5_000)),
    "6,000 links with long names": lambda: ((named(b"2", number), 1) for number in range(6_000)),
}
"""Archives that are small, and cost much: parts, and how often each follows itself."""


def squeeze(path: Path, parts: Iterator[tuple[bytes, int]]) -> Path:
    """Write a gzip file; what follows itself is compressed once."""
    block: list[bytes] = []
    with path.open("wb") as stream:
        for content, times in parts:
            if times == 1 and len(content) < len(MEGABYTE):
                block.append(content)
                continue
            stream.write(gzip.compress(b"".join(block), 6))
            block = []
            stream.write(gzip.compress(content, 6) * times)
        stream.write(gzip.compress(b"".join(block), 6))
    return path


def deep_folder(top: Path, depth: int, name: str) -> None:
    """Folders one in the other, deeper than a path reaches."""
    descriptor = os.open(top, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=descriptor)
        below = os.open(name, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(os.open("bottom", os.O_WRONLY | os.O_CREAT, dir_fd=descriptor))
    os.close(descriptor)
