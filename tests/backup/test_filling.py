"""What a volume is filled from: what the engine is given is written anew, and what is staged is what was verified."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from conche.backup import within
from conche.backup.archive import ArchiveWriter, compressing
from conche.backup.filling import emitted
from conche.backup.inflate import unpacked
from conche.backup.losses import Losses
from conche.backup.manifest import Artifact, ComponentRecord, Link
from conche.backup.source import Source
from conche.backup.staging import unpack
from conche.backup.strict import Limits, Walked, admitted
from conche.errors import CheckFailed
from tests.backup.hostile import HOSTILE, Content, entry, file, pack

ORDINARY: dict[str, dict[str, Any]] = {
    "file": {"size": 123_456_789, "mode": 0o640, "uid": 1000, "gid": 7, "mtime": 1.6e9},
    "long name": {"name": "n" * 101},
    "name of 100": {"name": "n" * 100},
    "folder of 100": {"name": "n" * 100, "type": tarfile.DIRTYPE},
    "folder": {"type": tarfile.DIRTYPE, "mode": 0o3777},
    "link": {"type": tarfile.SYMTYPE, "linkname": "/etc/x"},
    "long link": {"type": tarfile.SYMTYPE, "linkname": "l" * 101},
    "large": {"size": 1 << 34},
    "owner": {"uid": 1 << 21},
    "before 1970": {"mtime": -5},
    "no utf-8": {"name": os.fsdecode(b"\xff")},
}


@pytest.mark.parametrize("attributes", ORDINARY.values(), ids=ORDINARY)
def test_a_header_is_what_tarfile_makes(attributes: dict[str, Any]) -> None:
    info = tarfile.TarInfo("folder/name")
    for name, value in attributes.items():
        setattr(info, name, value)

    wanted = info.tobuf(tarfile.GNU_FORMAT, tarfile.ENCODING, "surrogateescape")

    assert next(emitted([(info, None)]))[: len(wanted)] == wanted


OUT = ("link out", "link absolute", "link through a link", "a chain of long links (CVE-2025-4517)")
"""What a container's own folders may have: links that lead anywhere in it."""

VOLUME = Limits(members=100, content=10_000, links_out=True)


def given(archive: Path, walked: Walked, limits: Limits = VOLUME) -> tarfile.TarFile:
    """What the engine is given of an archive."""
    with within.opened(archive.parent, archive.name) as opened:
        return tarfile.open(fileobj=io.BytesIO(b"".join(emitted(admitted(opened, limits, walked)))))


def made(folder: Path, content: Content) -> tuple[Path, Artifact]:
    """An archive as a backup has it, and what its manifest says of it."""
    place = folder / "kept/kept.tar.gz"
    place.parent.mkdir()
    with compressing(place) as compressor:
        writer = ArchiveWriter(compressor)
        for info, data in content:
            writer.add(info, [data] if data else [])
        one = writer.finish()
    pieces = " ".join(map(str, one.pieces))
    return place, Artifact(
        path="kept/kept.tar.gz", size=one.size, sha256=one.sha256, members=one.members, content=one.content,
        pieces=pieces,
    )  # fmt: skip


def source(backup: Path, driver: str, *artifacts: Artifact, links: tuple[Link, ...] = (), **facts: str) -> Source:
    record = ComponentRecord(driver=driver, artifacts=artifacts, links=links, facts=facts)
    return Source(cast("Any", SimpleNamespace(root=backup)), backup, "kept", record)


def plain(folder: Path, name: str, data: bytes, **more: Any) -> Artifact:
    path = folder / "kept" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    return Artifact.model_validate({"path": f"kept/{name}", "size": len(data), "sha256": digest, **more})


@pytest.mark.parametrize("name", sorted(HOSTILE.keys() - set(OUT)))
def test_the_engine_is_never_given_the_whole_of_a_hostile_archive(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckFailed) as refused:
        given(pack(tmp_path / "a.tar.gz", HOSTILE[name]()), Walked())

    assert refused.value.code == "archive-refused"


@pytest.mark.parametrize("name", OUT)
def test_a_link_of_a_volume_may_lead_anywhere(tmp_path: Path, name: str) -> None:
    content = HOSTILE[name]()

    links = given(pack(tmp_path / "a.tar.gz", content), Walked()).getmembers()

    assert [(one.name, one.linkname) for one in links] == [(info.name, info.linkname) for info, _ in content]


def test_links_come_last_and_modes_are_lowered_and_said(tmp_path: Path) -> None:
    archive = pack(
        tmp_path / "a.tar.gz",
        [
            entry("l", tarfile.SYMTYPE, "/etc", uid=7),
            entry("d", tarfile.DIRTYPE, mode=0o7777, uid=5, gid=6, mtime=1_600_000_000),
            file("d/su", b"root", mode=0o6755),
            file("d/" + "n" * 200, b"long", mode=0o1644, mtime=1_500_000_000.5, uid=1 << 31),
            file(os.fsdecode(b"not-utf8-\xff"), b"u"),
        ],
        tarfile.PAX_FORMAT,
    )
    walked = Walked()

    with given(archive, walked) as tar:
        seen = {one.name: one for one in tar.getmembers()}
        contents = {name: tar.extractfile(one).read() for name, one in seen.items() if one.isreg()}  # type: ignore[union-attr]

    assert list(seen) == ["d", "d/su", "d/" + "n" * 200, os.fsdecode(b"not-utf8-\xff"), "l"]
    assert [one.mode for one in seen.values()] == [0o3777, 0o755, 0o644, 0o644, 0o777]
    assert (seen["d"].uid, seen["d"].gid, seen["d"].mtime) == (5, 6, 1_600_000_000)
    assert seen["d/" + "n" * 200].uid == 1 << 31
    assert (seen["l"].linkname, seen["l"].uid) == ("/etc", 7)
    assert list(contents.values()) == [b"root", b"long", b"u"]
    [said] = walked.losses.warnings("kept")
    assert said.startswith("kept: 3 entries came back without set-user-id")
    assert "d/su" in said


@pytest.mark.parametrize("content", [[], [file("one", b"content"), entry("d", tarfile.DIRTYPE)]], ids=["empty", "full"])
def test_an_archive_is_unpacked_as_one_whatever_it_holds(tmp_path: Path, content: Content) -> None:
    _, artifact = made(tmp_path, content)

    assert not unpack(source(tmp_path, "volume", artifact), tmp_path / "out")

    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(info.name for info, _ in content)


def test_an_archive_that_is_exchanged_after_it_was_verified_is_found(tmp_path: Path) -> None:
    place, artifact = made(tmp_path, [file("one", b"content")])
    pack(place, [file("one", b"CONTENT")])

    with pytest.raises(CheckFailed, match="is not what the manifest says"):
        unpack(source(tmp_path, "volume", artifact), tmp_path / "out")


SPOILED = {
    "other": b"other",
    "longer": b"content, and more",
    "shorter": b"cont",
    "empty": b"",
}


@pytest.mark.parametrize("spoiled", SPOILED.values(), ids=SPOILED)
def test_a_file_that_is_exchanged_after_it_was_verified_is_found(tmp_path: Path, spoiled: bytes) -> None:
    artifact = plain(tmp_path, "one", b"content")
    (tmp_path / "kept/one").write_bytes(spoiled)

    with pytest.raises(CheckFailed):
        unpack(source(tmp_path, "files", artifact), tmp_path / "out")
    with pytest.raises(CheckFailed):
        list(emitted(source(tmp_path, "volume", artifact).plain("", Losses())))


def test_plain_files_come_back_with_their_modes_and_links_last(tmp_path: Path) -> None:
    artifact = plain(tmp_path, "deep/one", b"content", mode=0o640)
    os.utime(tmp_path / "kept/deep/one", (1_500_000_000, 1_500_000_000))
    link = Link(path="kept/latest", target="deep/one")

    unpack(source(tmp_path, "files", artifact, links=(link,), folder="models"), tmp_path / "out")

    one = tmp_path / "out/models/deep/one"
    assert (one.read_bytes(), one.stat().st_mode & 0o7777, one.stat().st_mtime) == (b"content", 0o640, 1_500_000_000)
    assert (tmp_path / "out/models/latest").readlink() == Path("deep/one")


@pytest.mark.parametrize("declared", [0, 1, 6, 8, 1 << 40])
def test_a_dump_unpacks_to_what_is_declared_or_not_at_all(tmp_path: Path, declared: int) -> None:
    dump = gzip.compress(b"content")
    artifact = plain(tmp_path, "dump.sql.gz", dump, content=declared, pieces=str(len(dump)))

    with pytest.raises(CheckFailed, match="which its manifest contradicts"):
        unpack(source(tmp_path, "command", artifact), tmp_path / "out")

    assert (tmp_path / "out/dump.sql").stat().st_size <= declared


def test_a_bomb_of_a_dump_ends_where_its_declared_size_does(tmp_path: Path) -> None:
    bomb = gzip.compress(bytes(1 << 20)) * 600
    plain(tmp_path, "dump.gz", bomb)

    blocks = []
    with within.opened(tmp_path / "kept", "dump.gz") as opened, pytest.raises(CheckFailed, match="unpacks to more"):
        blocks += list(unpacked(opened, 1))

    assert sum(map(len, blocks)) <= 1


def test_a_dump_comes_back(tmp_path: Path) -> None:
    dump = gzip.compress(b"content")
    artifact = plain(tmp_path, "dump.sql.gz", dump, content=7, pieces=str(len(dump)))

    unpack(source(tmp_path, "command", artifact), tmp_path / "out")

    assert (tmp_path / "out/dump.sql").read_bytes() == b"content"
