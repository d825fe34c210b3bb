"""Archives: read by plain tar, the same bytes for the same files, and exact when a file changes meanwhile."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from tarfile import TarInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conche.backup.archive import Archive, ArchiveWriter, compressing
from conche.backup.entries import BLOCK, Entry, local_entries
from conche.backup.reading import Reading
from conche.backup.storing import store


def archived(root: Path, name: str, place: Path, reading: Reading | None = None) -> Archive:
    with compressing(place) as compressor:
        writer = ArchiveWriter(compressor)
        store(local_entries(root, name, reading or Reading()), writer, reading or Reading())
        return writer.finish()


@given(st.lists(st.binary(max_size=70_000), max_size=12))
@pytest.mark.large
def test_plain_tar_and_gzip_read_any_content(tmp_path_factory: pytest.TempPathFactory, contents: list[bytes]) -> None:
    folder = tmp_path_factory.mktemp("any")
    (folder / "src").mkdir()
    for number, content in enumerate(contents):
        (folder / f"src/{number}").write_bytes(content)

    made = archived(folder, "src", folder / "a.tar.gz")

    subprocess.run(["gzip", "-t", folder / "a.tar.gz"], check=True)
    (folder / "out").mkdir()
    subprocess.run(["tar", "xzf", folder / "a.tar.gz", "-C", folder / "out"], check=True)
    assert [(folder / f"out/src/{n}").read_bytes() for n in range(len(contents))] == contents
    assert (made.members, made.content) == (len(contents) + 1, sum(map(len, contents)))
    assert sum(made.pieces) == made.size == (folder / "a.tar.gz").stat().st_size


def test_the_same_files_give_the_same_bytes_and_a_new_one_changes_few_pieces(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    for number in range(300):
        (tmp_path / f"src/{number:03}").write_bytes(os.urandom(5_000 + number * 200))
    first = archived(tmp_path, "src", tmp_path / "1.tar.gz")
    again = archived(tmp_path, "src", tmp_path / "2.tar.gz")
    (tmp_path / "src/000a").write_bytes(os.urandom(40_000))
    (tmp_path / "src/150").write_bytes(os.urandom(30_000))
    third = archived(tmp_path, "src", tmp_path / "3.tar.gz")

    def pieces(made: Archive, file: str) -> set[bytes]:
        content, found, place = (tmp_path / file).read_bytes(), set(), 0
        for size in made.pieces:
            found.add(content[place : place + size])
            place += size
        return found

    assert first == again
    changed = pieces(third, "3.tar.gz") - pieces(first, "1.tar.gz")
    assert sum(map(len, changed)) < 0.05 * third.size


def meddled(entry: Entry, meddle: Callable[[int], None]) -> Entry:
    """The same entry; `meddle` is called with the number of each block once that has been read."""
    read = entry.read
    if read is None:
        return entry

    def meddling() -> tuple[TarInfo, Iterator[bytes]]:
        info, blocks = read()

        def through() -> Iterator[bytes]:
            for number, block in enumerate(blocks):
                yield block
                meddle(number)

        return info, through()

    return Entry(entry.info, meddling)


def test_a_file_that_is_rewritten_while_it_is_read_is_read_again(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    file = tmp_path / "src/large"
    file.write_bytes(b"a" * (5 << 20))
    tries: list[int] = []
    reading = Reading()

    def rewrite(number: int) -> None:
        if number == 1 and len(tries) < 2:
            tries.append(number)
            file.write_bytes(b"b" * (4 << 20) + str(len(tries)).encode())

    with compressing(tmp_path / "a.tar.gz") as compressor:
        writer = ArchiveWriter(compressor)
        store((meddled(entry, rewrite) for entry in local_entries(tmp_path, "src", reading)), writer, reading)
        made = writer.finish()

    (tmp_path / "out").mkdir()
    subprocess.run(["tar", "xzf", tmp_path / "a.tar.gz", "-C", tmp_path / "out"], check=True)
    assert (tmp_path / "out/src/large").read_bytes() == file.read_bytes()
    assert (len(tries), reading.left_out, made.members) == (2, [], 2)


def test_one_that_never_rests_is_left_out_and_said(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    file = tmp_path / "src/busy"
    file.write_bytes(b"a" * (3 << 20))
    (tmp_path / "src/quiet").write_text("q")
    reading = Reading()

    def cut(number: int) -> None:
        if number == 0 and file.stat().st_size > BLOCK:
            os.truncate(file, file.stat().st_size - 1)

    with compressing(tmp_path / "a.tar.gz") as compressor:
        writer = ArchiveWriter(compressor)
        store((meddled(entry, cut) for entry in local_entries(tmp_path, "src", reading)), writer, reading)
        writer.finish()

    assert [(one.name, one.harmful) for one in reading.left_out] == [("src/busy", True)]
    listed = subprocess.run(["tar", "tzf", tmp_path / "a.tar.gz"], capture_output=True, text=True, check=True)
    assert listed.stdout.split() == ["src/", "src/quiet"]


def test_a_log_that_grows_is_taken_as_far_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    log = tmp_path / "logs/app.log"
    log.write_bytes(b"line\n" * 400_000)
    before = log.read_bytes()
    reading = Reading(grows=True)
    [folder, entry] = local_entries(tmp_path, "logs", reading)
    assert entry.read is not None

    _, blocks = entry.read()
    first = next(blocks)
    with log.open("ab") as stream:
        stream.write(b"more\n")

    assert first + b"".join(blocks) == before
    assert folder.read is None


def test_special_and_unreadable_files_are_left_out_and_never_waited_for(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    os.mkfifo(tmp_path / "src/fifo")
    (tmp_path / "src/ok").write_text("ok")
    sparse = tmp_path / "src/sparse"
    with sparse.open("wb") as stream:
        stream.truncate(200 << 20)
    reading = Reading()

    with compressing(tmp_path / "a.tar.gz") as compressor:
        writer = ArchiveWriter(compressor)
        store(local_entries(tmp_path, "src", reading), writer, reading)
        store(local_entries(tmp_path, "gone", reading), writer, reading)
        made = writer.finish()

    assert [(one.name, one.harmful) for one in reading.left_out] == [("src/fifo", False), ("gone", True)]
    assert made.size < 300_000


def test_an_empty_folder_and_odd_sizes(tmp_path: Path) -> None:
    with compressing(tmp_path / "a.tar.gz") as compressor:
        writer = ArchiveWriter(compressor)
        info = TarInfo("f")
        info.size = 513
        writer.add(info, [b"x" * 513])
        writer.finish()

    listed = subprocess.run(["tar", "tvzf", tmp_path / "a.tar.gz"], capture_output=True, text=True, check=True)
    assert " 513 " in listed.stdout
