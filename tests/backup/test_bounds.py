"""What one file has too much of costs that file at most, and never the backup of the others."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from tarfile import TarInfo

import pytest

from conche.backup import members as reading_of_members
from conche.backup.archive import Archive, ArchiveWriter, compressing
from conche.backup.entries import tar_entries
from conche.backup.headers import attach, header, set_parts, xattr_of
from conche.backup.inflate import Forward
from conche.backup.members import Members
from conche.backup.reading import LeftOut, Reading
from conche.backup.storing import store
from conche.backup.strict import Limits, Walked, admitted
from conche.backup.within import opened

VALUE = b"v" * (60 << 10)


def test_a_file_of_too_many_parts_is_left_out_by_name_with_all_its_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading_of_members, "MOST_PARTS", 3)
    scattered, again = file("scattered", 100), TarInfo("again")
    again.type, again.linkname = tarfile.LNKTYPE, "scattered"
    set_parts(scattered, [(place, 1) for place in (0, 20, 40, 60)])
    stream = stored(file("before", 3), b"abc") + stored(scattered, b"1234") + header(again) + stored(file("z", 1), b"z")

    reading, _ = backed_up(stream, tmp_path / "a.tar.gz")

    assert [(name, content) for name, content, _ in found(tmp_path / "a.tar.gz")] == [("before", b"abc"), ("z", b"z")]
    assert [(one.name, one.harmful) for one in reading.left_out] == [("scattered", True), ("again", True)]
    assert reading.second_names == []


@pytest.mark.parametrize("number", [3, 10, 40])
def test_a_file_with_very_many_attributes_is_stored_and_those_it_loses_are_named(tmp_path: Path, number: int) -> None:
    """The kernel allows 64 KiB an attribute, and XFS as many of them as the disk holds."""
    heavy = file("a" * 150, 3)
    for one in range(number):
        attach(heavy, f"user.{one:02}", VALUE)
    stream = stored(heavy, b"abc") + stored(file("z", 1), b"z")

    reading, made = backed_up(stream, tmp_path / "a.tar.gz")

    [(name, content, kept), last] = found(tmp_path / "a.tar.gz", Limits(made.members, made.content, exact=True))
    assert (name, content, last) == ("a" * 150, b"abc", ("z", b"z", []))
    assert kept == ["user.00", "user.01"]
    [lost] = reading.left_out
    assert (lost.name, lost.harmful) == (name, True)
    assert "user.02" in lost.why


def test_the_names_of_a_great_many_lost_attributes_are_counted(tmp_path: Path) -> None:
    heavy = file("heavy", 0)
    for one in range(5_000):
        attach(heavy, f"user.{'n' * 200}{one:04}", b"v" * 30)

    reading, _ = backed_up(stored(heavy, b""), tmp_path / "a.tar.gz")

    [lost] = reading.left_out
    assert isinstance(lost, LeftOut)
    assert len(lost.why) < 3_000
    assert "others" in lost.why


def file(name: str, size: int) -> TarInfo:
    info = TarInfo(name)
    info.size, info.mode = size, 0o600
    return info


def stored(info: TarInfo, content: bytes) -> bytes:
    return header(info) + content + bytes(-len(content) % 512)


def backed_up(stream: bytes, place: Path) -> tuple[Reading, Archive]:
    """Archive what an engine sends."""
    reading = Reading()
    members = Members(Forward(io.BytesIO(stream + bytes(1024))), lenient=True)
    with compressing(place) as compressor:
        writer = ArchiveWriter(compressor)
        store(tar_entries(members, "", reading), writer, reading)
        return reading, writer.finish()


def found(archive: Path, limits: Limits | None = None) -> list[tuple[str, bytes, list[str]]]:
    """What comes back of an archive: names, contents and the names of attributes."""
    with opened(archive.parent, archive.name) as file:
        return [
            (info.name, b"".join(blocks or ()), sorted(filter(None, map(xattr_of, info.pax_headers))))
            for info, blocks in admitted(file, limits or Limits(), Walked())
        ]
