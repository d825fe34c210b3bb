"""The strict extractor: what it refuses, with a canary beside the target that must stay as it is."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from conche.backup.archive import ArchiveWriter, compressing
from conche.backup.strict import Limits
from conche.errors import CheckFailed
from tests.backup.hostile import COSTLY, HOLES, HOSTILE, RECORDS, entry, file, header, pack, pax, sparse_pax, squeeze
from tests.backup.reading import extract, walk
from tests.stacks import ROOT

WALK = """
import pathlib, sys
from conche.backup import within
from conche.backup.strict import Limits, Walked, walk
from conche.errors import CheckFailed

def highest():
    return int(pathlib.Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])

path, limits, walked = pathlib.Path(sys.argv[1]), Limits(*map(int, sys.argv[2:])), Walked()
before = highest()
with within.opened(path.parent, path.name) as file:
    try:
        walked = walk(file, limits)
    except CheckFailed:
        pass
print(walked.members, highest() - before)
"""
"""In a process of its own: the highest mark of this one may be far above what is measured."""


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


@pytest.mark.parametrize("name", [*HOLES, *RECORDS])
def test_impossible_holes_and_records_are_refused(place: Path, name: str) -> None:
    content = HOLES[name] if name in HOLES else pax(RECORDS[name]) + header(b"f", b"0" * 11)
    (place / "a.tar.gz").write_bytes(gzip.compress(content + bytes(1024)))

    with pytest.raises(CheckFailed) as refused:
        extract(place / "a.tar.gz", place / "into", Limits(members=100, content=10_000))

    assert refused.value.code == "archive-refused"
    assert list((place / "into").iterdir()) == []


def test_holes_do_not_count_as_content(place: Path) -> None:
    (place / "a.tar.gz").write_bytes(
        gzip.compress(sparse_pax(str(1 << 40), "2 7 3 1099511627776 0", b"end") + bytes(1024))
    )

    walked = extract(place / "a.tar.gz", place / "into", Limits(members=1, content=3, exact=True))

    assert (walked.members, walked.content, (place / "into/f").stat().st_size) == (1, 3, 1 << 40)
    assert (place / "into/f").stat().st_blocks < 1000


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

    assert cost(archive, made.members, made.content, 1, members=100_000) < 60_000


@pytest.mark.large
def test_an_archive_of_nothing_but_folders_can_be_read_again(place: Path) -> None:
    archive, count = place / "a.tar.gz", 130_000
    with compressing(archive) as compressor:
        writer = ArchiveWriter(compressor)
        for number in range(count):
            info = tarfile.TarInfo(f"{'long names ' * 7}/{number:06}")
            info.type = tarfile.DIRTYPE
            writer.add(info)
        writer.finish()

    assert walk(archive, Limits()).members == count


def cost(archive: Path, *limits: int, members: int) -> int:
    """What it costs to walk through an archive, in kilobytes, and see how many members are found."""
    argv = [sys.executable, "-c", WALK, str(archive), *map(str, limits)]
    found = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert int(found[0]) == members
    return int(found[1])


@pytest.mark.large
@pytest.mark.parametrize("name", COSTLY)
def test_a_megabyte_costs_at_most_64_of_memory(place: Path, name: str) -> None:
    archive = squeeze(place / "a.tar.gz", COSTLY[name]())
    megabytes = max(archive.stat().st_size / 1e6, 1.0)

    assert cost(archive, 5_000_000, 1 << 44, members=MEMBERS.get(name, 0)) < 64_000 * megabytes


MEMBERS = {
    "attributes of a hundred files": 100,
    "a sparse file in as many parts as there may be": 1,
    "3,000 files with long names": 3_000,
    "5,000 folders with long names": 5_000,
}
"""Of those that are harmless; all others are refused."""
