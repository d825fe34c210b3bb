"""The strict extractor: what it refuses, with a canary beside the target that must stay as it is."""

from __future__ import annotations

import gzip
import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from tarfile import TarInfo

import pytest

from conche.backup.archive import ArchiveWriter, compressing
from conche.backup.extract import Limits, extract, walk
from conche.errors import CheckFailed
from tests.stacks import ROOT

WALK = """
import pathlib, sys
from conche.backup.extract import Limits, walk

def highest():
    return int(pathlib.Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])

before = highest()
walked = walk(pathlib.Path(sys.argv[1]), Limits(int(sys.argv[2]), int(sys.argv[3]), exact=True))
print(walked.members, highest() - before)
"""
"""In a process of its own: the highest mark of this one may be far above what is measured."""

Content = list[tuple[TarInfo, bytes]]


def file(name: str, content: bytes = b"x", **more: object) -> tuple[TarInfo, bytes]:
    info = TarInfo(name)
    info.size = len(content)
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
    "a chain of long links (CVE-2025-4517)": lambda: [
        *CHAIN, entry("out", tarfile.SYMTYPE, f"{LONG}/l1/../../../canary"),
    ],
    "device": lambda: [entry("d", tarfile.CHRTYPE, devmajor=1, devminor=3)],
    "block device": lambda: [entry("d", tarfile.BLKTYPE)],
    "fifo": lambda: [entry("f", tarfile.FIFOTYPE)],
    "twice": lambda: [file("a"), file("a", b"y")],
    "file where a folder is": lambda: [file("a/b"), file("a")],
    "folder where a file is": lambda: [file("a"), file("a/b")],
    "too deep": lambda: [file("/".join(["d"] * 300))],
    "too long": lambda: [file("/".join(["d" * 200] * 30))],
    "too many": lambda: [file(f"f{number}") for number in range(101)],
    "too much": lambda: [file("f", bytes(10_001))],
}  # fmt: skip


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "canary").mkdir()
    (tmp_path / "canary/file").write_text("as it was")
    (tmp_path / "into").mkdir()
    return tmp_path


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT], ids=["gnu", "pax"])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives_are_refused_and_nothing_outside_is_touched(place: Path, name: str, form: int) -> None:
    archive = pack(place / "a.tar.gz", HOSTILE[name](), form)

    with pytest.raises(CheckFailed) as refused:
        extract(archive, place / "into", Limits(members=100, content=10_000))

    assert refused.value.code == "archive-refused"
    assert [path.name for path in (place / "canary").iterdir()] == ["file"]
    assert (place / "canary/file").read_text() == "as it was"
    assert sorted(path.name for path in place.iterdir()) == ["a.tar.gz", "canary", "into"]
    assert not [path for path in (place / "into").rglob("*") if path.is_symlink()]


def header(name: bytes, size: bytes, kind: bytes = b"0") -> bytes:
    block = bytearray(512)
    block[: len(name)] = name
    block[100:108], block[108:116], block[116:124] = b"0000644\0", b"0000000\0", b"0000000\0"
    block[124:136], block[136:148] = size.ljust(12, b"\0"), b"00000000000\0"
    block[156:157], block[257:265], block[148:156] = kind, b"ustar  \0", b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    return bytes(block)


@pytest.mark.parametrize(
    "content",
    [
        header(b"f", b"\xff" * 12),
        header(b"f", b"\x80" + (1 << 40).to_bytes(11, "big")),
        header(b"f", b"00000002000\0") + bytes(512),
        header(b"f", b"00000001000\0", b"S") + bytes(1024),
        header(b"f", b"00000000001\0") + b"x" + bytes(511) + b"\1" * 512 + bytes(1024),
    ],
    ids=["negative size", "2^40 bytes", "cut off", "sparse", "a broken header in the middle"],
)
def test_impossible_headers_are_refused(place: Path, content: bytes) -> None:
    (place / "a.tar.gz").write_bytes(gzip.compress(content))

    with pytest.raises(CheckFailed):
        extract(place / "a.tar.gz", place / "into", Limits(members=100, content=10_000))


def test_a_bomb_ends_at_the_limit(place: Path) -> None:
    with gzip.open(place / "a.tar.gz", "wb", compresslevel=1) as stream:
        stream.write(header(b"f", b"%011o\0" % (1 << 30)))
        for _ in range(64):
            stream.write(bytes(1 << 20))

    with pytest.raises(CheckFailed, match="more than it may"):
        extract(place / "a.tar.gz", place / "into", Limits(members=1, content=1 << 20))

    assert not (place / "into/f").exists()


def test_damage_of_the_gzip_stream_is_an_error_and_no_traceback(place: Path) -> None:
    archive = pack(place / "a.tar.gz", [file("f", os.urandom(5000))])
    whole = archive.read_bytes()

    flipped = whole[:100] + bytes([whole[100] ^ 1]) + whole[101:]
    for damaged in (whole[:-1], whole[: len(whole) // 2], b"", b"no gzip", flipped):
        archive.write_bytes(damaged)
        with pytest.raises(CheckFailed):
            walk(archive, Limits())


def test_what_a_backup_holds_comes_back_as_it_was(place: Path) -> None:
    sparse = bytes(3 << 20) + b"end"
    content = [
        entry("d", tarfile.DIRTYPE, mode=0o750, mtime=1_600_000_000),
        file("d/run", b"#!/bin/sh\n", mode=0o4755, mtime=1_500_000_000),
        file("d/" + "n" * 250, b"long name"),
        file("new\nline", b"n"),
        file(os.fsdecode(b"not-utf8-\xff"), b"u"),
        file("empty", b""),
        file("sparse", sparse),
        entry("d/link", tarfile.SYMTYPE, "../empty"),
        entry("dangling", tarfile.SYMTYPE, "nowhere"),
    ]
    archive = place / "a.tar.gz"
    with compressing(archive) as compressor:
        writer = ArchiveWriter(compressor)
        for info, data in content:
            writer.add(info, [data] if data else [])
        made = writer.finish()

    extract(archive, place / "into", Limits(made.members, made.content, exact=True))

    into = place / "into"
    assert {os.fsencode(path.name) for path in into.iterdir()} == {
        b"d", b"new\nline", b"not-utf8-\xff", b"empty", b"sparse", b"dangling",
    }  # fmt: skip
    assert ((into / "d").stat().st_mode & 0o7777, (into / "d").stat().st_mtime) == (0o750, 1_600_000_000)
    assert ((into / "d/run").stat().st_mode & 0o7777, (into / "d/run").stat().st_mtime) == (0o755, 1_500_000_000)
    assert (into / "sparse").read_bytes() == sparse
    assert (into / "sparse").stat().st_blocks * 512 < 1 << 20
    assert (into / "d/link").resolve() == into / "empty"
    with pytest.raises(CheckFailed, match="which its manifest contradicts"):
        walk(archive, Limits(made.members + 1, made.content, exact=True))


@pytest.mark.large
def test_100_000_members_stay_within_memory(place: Path) -> None:
    archive = place / "a.tar.gz"
    with compressing(archive) as compressor:
        writer = ArchiveWriter(compressor)
        for number in range(100_000):
            writer.add(file(f"folder{number % 10}/file{number}", b"")[0])
        made = writer.finish()

    argv = [sys.executable, "-c", WALK, str(archive), str(made.members), str(made.content)]
    walked = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()

    assert int(walked[0]) == 100_000
    assert int(walked[1]) < 60_000
