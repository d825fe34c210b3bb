"""What comes back is what was there: owners, modes, times, hard links, holes, attributes, ACLs, capabilities."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import shutil
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path
from tarfile import TarInfo
from types import SimpleNamespace
from typing import Any, cast

import pytest

from conche.backup import extract as extracting
from conche.backup import folder, within
from conche.backup.archive import Archive, ArchiveWriter, compressing
from conche.backup.archived import limits_of
from conche.backup.drivers import Dumping, local
from conche.backup.entries import local_entries, tar_entries
from conche.backup.filling import emitted
from conche.backup.folder import FolderWriter
from conche.backup.headers import attach, attributes, header, set_parts, set_time, time_ns
from conche.backup.inflate import Forward
from conche.backup.losses import Losses
from conche.backup.manifest import Artifact, ComponentRecord
from conche.backup.members import Members
from conche.backup.reading import Reading
from conche.backup.source import Source
from conche.backup.staging import stage, unpack
from conche.backup.storing import store
from conche.backup.strict import Limits, Walked, admitted, walk
from conche.backup.tree import FILE, data_of
from conche.errors import CheckFailed
from conche.stack import Component
from tests.backup.hostile import file
from tests.backup.reading import extract
from tests.backup.unusual import (
    ACCESS,
    CAPABILITY,
    DEFAULT,
    INHERITED,
    NET_RAW,
    ODD,
    WIDE_MASK,
    Seen,
    look,
    make_unusual,
)

TAR = ("tar", "--xattrs", "--xattrs-include=*", "--acls", "--numeric-owner")


def archived(folder: Path, reading: Reading | None = None) -> Archive:
    """`src` of a folder as `a.tar.gz` in it."""
    reading = reading or Reading()
    with compressing(folder / "a.tar.gz") as compressor:
        writer = ArchiveWriter(compressor)
        store(local_entries(folder, "src", reading), writer, reading)
        made = writer.finish()
    assert reading.left_out == []
    return made


def exactly(made: Archive) -> Limits:
    return Limits(made.members, made.content, exact=True)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "into").mkdir()
    return tmp_path


@pytest.fixture
def before(place: Path) -> Seen:
    make_unusual(place / "src")
    return look(place / "src")


def test_all_of_it_comes_back(place: Path, before: Seen) -> None:
    made = archived(place)

    walked = extract(place / "a.tar.gz", place / "into", exactly(made))

    assert look(place / "into/src") == before
    assert not walked.losses
    assert made.content < 1 << 20


def test_plain_gnu_tar_brings_back_the_same(place: Path, before: Seen) -> None:
    archived(place)

    subprocess.run([*TAR, "-xpzf", place / "a.tar.gz", "-C", place / "into"], check=True)

    assert look(place / "into/src") == before


def test_what_gnu_tar_has_packed_comes_back(place: Path, before: Seen) -> None:
    options = ("--no-acls", "--format=posix", "--sparse", "--sort=name", "-czf")
    subprocess.run([*TAR, *options, place / "a.tar.gz", "-C", place / "src", "."], check=True)

    walked = extract(place / "a.tar.gz", place / "into", Limits(top=True))

    assert look(place / "into") == before
    assert not walked.losses


def test_what_is_written_anew_for_a_volume_is_the_same(place: Path, before: Seen) -> None:
    made = archived(place)
    with within.opened(place, "a.tar.gz") as opened:
        anew = b"".join(emitted(admitted(opened, exactly(made), Walked())))

    subprocess.run([*TAR, "-xpP", "--delay-directory-restore", "-C", place / "into"], input=anew, check=True)

    assert look(place / "into/src") == before
    assert len(anew) < 1 << 20


def test_names_of_one_file_are_stored_once(place: Path) -> None:
    (place / "src").mkdir()
    for number in range(2000):
        (place / f"src/{number}").write_bytes(bytes([number % 251]) * 4096)
        os.link(place / f"src/{number}", place / f"src/{number} again")

    made = archived(place)
    extract(place / "a.tar.gz", place / "into", exactly(made))

    assert (made.members, made.content) == (4001, 2000 * 4096)
    for number in range(2000):
        assert (place / f"into/src/{number}").samefile(place / f"into/src/{number} again")


def test_a_second_name_of_what_is_left_out_has_the_content_itself(place: Path) -> None:
    (place / "src").mkdir()
    (place / "src/a").write_text("kept")
    os.link(place / "src/a", place / "src/b")
    os.link(place / "src/a", place / "src/c")

    made = archived(place, Reading(exclude=("a",)))
    extract(place / "a.tar.gz", place / "into", exactly(made))

    assert (place / "into/src/b").read_text() == "kept"
    assert (place / "into/src/b").samefile(place / "into/src/c")


def test_the_mask_of_an_acl_does_not_become_the_right_of_the_group(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "src").mkdir()
    (place / "src/f").write_text("x")
    os.setxattr(place / "src/f", ACCESS, WIDE_MASK)
    made = archived(place)
    subprocess.run(["tar", "-xpzf", place / "a.tar.gz", "-C", place / "into"], check=True)
    assert (place / "into/src/f").stat().st_mode & 0o777 == 0o644
    (place / "other").mkdir()

    def poor(*_: object, **__: object) -> None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(os, "setxattr", poor)
    walked = extract(place / "a.tar.gz", place / "other", exactly(made))

    assert (place / "other/src/f").stat().st_mode & 0o777 == 0o644
    assert walked.losses.warnings("code") == [
        "code: 1 entry came back without ACL: src/f; set it by hand where it is wanted"
    ]


def test_an_acl_that_a_folder_gives_does_not_stay_on_what_had_none(place: Path) -> None:
    make_unusual(place / "src")
    before = look(place / "src")
    made = archived(place)
    os.setxattr(place / "into", DEFAULT, INHERITED)

    extract(place / "a.tar.gz", place / "into", exactly(made))

    assert look(place / "into/src") == before


def test_what_this_user_cannot_give_is_said(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "src").mkdir()
    for name in "abcde":
        (place / f"src/{name}").write_text(name)
    archived(place)
    entries = [one for one in _entries(place / "a.tar.gz") if one.isreg()]
    for entry in entries:
        entry.uid, entry.size = entry.uid + 1, 0

    def not_root(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    losses = Losses()
    monkeypatch.setattr(os, "fchown", not_root)
    extracting.fill(place / "into", [(entry, iter(())) for entry in entries], losses)

    [said] = losses.warnings("code")
    assert said.startswith("code: 5 entries came back without its owner or group: src/a, src/b, src/c and others;")


def _entries(archive: Path) -> list[TarInfo]:
    with within.opened(archive.parent, archive.name) as opened:
        return [info for info, _ in admitted(opened, Limits(), Walked())]


@pytest.mark.parametrize("given", [CAPABILITY, "trusted.overlay.opaque", "security.selinux", "system.nfs4_acl"])
def test_an_attribute_that_gives_rights_is_not_brought_along(place: Path, given: str) -> None:
    info, content = file("src", b"x")
    attach(info, given, NET_RAW)
    attach(info, "user.note", b"stays")
    with compressing(place / "a.tar.gz") as compressor:
        writer = ArchiveWriter(compressor)
        writer.add(info, [content])
        made = writer.finish()

    walked = extract(place / "a.tar.gz", place / "into", exactly(made))

    assert os.listxattr(place / "into/src") == ["user.note"]
    assert len(walked.losses.warnings("code")) == 1
    [again] = _read(header(info))
    assert attributes(again) == {given: NET_RAW, "user.note": b"stays"}


def test_what_gives_rights_comes_back_where_the_component_says_so(place: Path) -> None:
    info, content = file("src", b"x")
    info.mode, info.uid, info.gid = 0o6755, os.getuid(), os.getgid()
    attach(info, CAPABILITY, NET_RAW)
    folder = TarInfo("d")
    folder.type, folder.mode = tarfile.DIRTYPE, 0o4755
    attach(folder, CAPABILITY, NET_RAW)
    with compressing(place / "a.tar.gz") as compressor:
        writer = ArchiveWriter(compressor)
        writer.add(info, [content])
        writer.add(folder)
        made = writer.finish()

    with within.opened(place, "a.tar.gz") as opened:
        limits = replace(exactly(made), privileged=True)
        [(kept, _), (plain, _)] = [(one, list(blocks or ())) for one, blocks in admitted(opened, limits, Walked())]
    walked = extract(place / "a.tar.gz", place / "into", limits)

    assert (kept.mode, attributes(kept)) == (0o6755, {CAPABILITY: NET_RAW})
    assert (plain.mode, attributes(plain)) == (0o755, {})
    assert (place / "into/src").stat().st_mode & 0o7777 == 0o6755
    # Only root gives capabilities.
    assert ("src" in "".join(walked.losses.warnings("code"))) == (os.listxattr(place / "into/src") == [])


def test_another_owner_s_rights_do_not_become_this_user_s(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def not_root(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    info, _ = file("src", b"")
    info.mode, info.uid = 0o4755, os.getuid() + 1
    monkeypatch.setattr(os, "fchown", not_root)
    extracting.fill(place / "into", [(info, iter(()))], losses := Losses())

    assert (place / "into/src").stat().st_mode & 0o7777 == 0o755
    assert any("set-user-id" in one for one in losses.warnings("code"))


def test_only_a_backup_that_is_trusted_brings_the_rights_that_a_component_declares(place: Path) -> None:
    declared = Component(driver="files", paths=("src",), privileged=True)
    section = SimpleNamespace(components={"kept": declared, "other": Component(driver="files", paths=("src",))})
    site = cast("Any", SimpleNamespace(root=place, section=section))
    record = ComponentRecord(driver="files")
    one = Artifact(path="kept/x", size=0, sha256="")

    found = [
        Source(site, place, name, record, trusted=trusted).limits(one).privileged
        for name, trusted in (("kept", True), ("kept", False), ("other", True), ("no longer declared", True))
    ]

    assert found == [True, False, False, False]


def _read(raw: bytes) -> list[TarInfo]:
    members = Members(Forward(io.BytesIO(raw)))
    return list(iter(members.next, None))


@pytest.mark.parametrize("moment", [0, 1, -1, 10**18 + 1, -(10**9), 8**11 * 10**9, -(10**9) * 3 + 7])
def test_a_time_is_written_to_the_nanosecond(moment: int) -> None:
    info, _ = file("f", b"")
    set_time(info, moment)

    [again] = _read(header(info))

    assert time_ns(again) == moment


def test_plain_files_are_stored_whole_under_each_of_their_names(place: Path) -> None:
    make_unusual(place / "src")
    reading, writer = Reading(), FolderWriter(place / "into")

    store(local_entries(place, "src", reading), writer, reading)

    for one in writer.stored:
        stored, source = place / "into" / one.name, place / one.name
        if one.link:
            assert (str(stored.readlink()), one.link) == (str(source.readlink()),) * 2
            continue
        assert (stored.stat().st_size, one.size) == (source.stat().st_size,) * 2
        assert one.sha256 == hashlib.sha256(source.read_bytes()).hexdigest()
        assert one.sha256 == hashlib.sha256(stored.read_bytes()).hexdigest()
    assert (place / "into/src/plain").samefile(place / "into/src/z")
    assert (place / "into/src/sparse").stat().st_blocks * 512 < 1 << 20
    assert {one.name for one in writer.stored} == {
        str(path.relative_to(place)) for path in (place / "src").rglob("*") if path.is_symlink() or path.is_file()
    }


def dumped(place: Path, *paths: str) -> Source:
    """A component of plain files, as a backup in `kept` has it."""
    component = Component(driver="files", paths=paths)
    site = cast("Any", SimpleNamespace(root=place, never=lambda: (), section=SimpleNamespace(components={})))
    (place / "backup/kept").mkdir(parents=True)
    record = local.dump(Dumping(site, "kept", component, place / "backup/kept"))
    assert record.left_out == ()
    return Source(site, place / "backup", "kept", record)


@pytest.mark.parametrize("path", ["src", "src/d"])
def test_plain_files_come_back_with_all_of_it(place: Path, before: Seen, path: str) -> None:
    source = dumped(place, path)

    losses = unpack(source, place / "into")

    assert look(place / "into" / path) == look(place / path)
    assert not losses
    for artifact in data_of(source.record):
        assert (place / "backup" / artifact.path).is_file()
    [again] = [one for one in source.record.artifacts if one not in data_of(source.record)]
    with within.opened(place / "backup", again.path) as file_:
        assert walk(file_, limits_of(source.record, again)).members == len(source.described)


def test_plain_files_of_a_volume_come_back_with_all_of_it(place: Path, before: Seen) -> None:
    source = dumped(place, "src")
    anew = b"".join(emitted(source.plain("", Losses(), top=True)))

    subprocess.run([*TAR, "-xpP", "--delay-directory-restore", "-C", place / "into"], input=anew, check=True)

    assert look(place / "into") == before
    assert len(anew) < 1 << 20


def test_a_tree_that_contradicts_the_manifest_is_refused(place: Path) -> None:
    (place / "src").mkdir()
    (place / "src/a").write_text("a")
    source = dumped(place, "src")
    other = plain_file(place / "backup", "kept/b")
    more = replace(source, record=source.record.model_copy(update={"artifacts": (*source.record.artifacts, other)}))

    with pytest.raises(CheckFailed, match="b is not in it"):
        unpack(more, place / "into")


def plain_file(folder: Path, name: str) -> Artifact:
    (folder / name).write_text("b")
    return Artifact(path=name, size=1, sha256=hashlib.sha256(b"b").hexdigest())


def test_what_the_target_cannot_hold_as_a_file_is_kept_in_the_tree(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "src").mkdir()
    for name in ("A", "a", ODD, FILE, "10:30", "x" * 200):
        (place / "src" / name).write_text(f"content of {name!a}")
    (place / "src/link").symlink_to("A")
    os.link(place / "src/A", place / "src/z")
    before = look(place / "src")

    def poor(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    written = folder._written

    def ignoring_case(path: Path, *rest: Any) -> str:
        if ":" in path.name or len(path.name) > 100:
            why = errno.EINVAL if ":" in path.name else errno.ENAMETOOLONG
            raise OSError(why, os.strerror(why))
        if path.with_name(path.name.upper()).exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        return written(path, *rest)

    with monkeypatch.context() as poorer:
        poorer.setattr(Path, "symlink_to", poor)
        poorer.setattr(os, "link", poor)
        poorer.setattr(folder, "_written", ignoring_case)
        source = dumped(place, "src")
    losses = unpack(source, place / "into")

    assert look(place / "into/src") == before
    assert not losses
    assert {one.path for one in data_of(source.record)} == {"kept/A", "kept/z"}


def test_an_error_in_the_middle_of_a_file_is_none_of_its_name(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the file would be stored without what was read of it."""
    (place / "src").mkdir()
    (place / "src/one").write_bytes(b"content")

    def broken(*_: object) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(folder, "begin_writeback", broken)

    with pytest.raises(OSError, match="Invalid argument"):
        dumped(place, "src")


def test_only_what_is_missing_is_exchanged_as_a_folder(place: Path) -> None:
    for name in ("conf/sub/deep/f", "conf/g"):
        (place / "src" / name).parent.mkdir(parents=True, exist_ok=True)
        (place / "src" / name).write_text(name)
    (place / "src/other").write_text("x")
    (place / "src/conf/empty").mkdir(mode=0o711)
    (place / "src/conf/sub").chmod(0o500)
    source = dumped(place, "src/conf", "src/other")
    (place / "src/conf/sub").chmod(0o700)
    shutil.rmtree(place / "src/conf/sub")
    (place / "src/conf/empty").rmdir()

    staged = stage(source, place / "staging", "1")

    assert {Path(pair.live).relative_to(place / "src").as_posix() for pair in staged.pairs} == {
        "conf/sub", "conf/g", "conf/empty", "other",
    }  # fmt: skip
    assert (place / "staging/kept/src/conf/sub").stat().st_mode & 0o777 == 0o500
    assert (place / "staging/kept/src/conf/empty").stat().st_mode & 0o777 == 0o711


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE])
def test_a_time_that_no_archive_may_have_does_not_make_the_backup_one_that_cannot_be_restored(
    place: Path, kind: bytes
) -> None:
    info = TarInfo("src/far")
    info.type, info.linkname, info.mode, info.mtime = kind, "there" * (kind == tarfile.SYMTYPE), 0o700, 1 << 50
    reading = Reading()
    with compressing(place / "a.tar.gz") as compressor:
        writer = ArchiveWriter(compressor)
        store(tar_entries(Members(Forward(io.BytesIO(header(info) + bytes(1024)))), "", reading), writer, reading)
        made = writer.finish()

    extract(place / "a.tar.gz", place / "into", exactly(made))

    assert (place / "into/src/far").lstat().st_mtime == 0
    assert [one.name for one in reading.left_out] == ["src/far"]


def test_a_file_of_holes_that_no_archive_may_have_is_missing_and_the_others_come_back(place: Path) -> None:
    """Some file systems let anybody make one of exbibytes."""
    endless, again, small = TarInfo("src/endless"), TarInfo("src/endless again"), TarInfo("src/small")
    again.type, again.linkname = tarfile.LNKTYPE, "src/endless"
    endless.size, small.size = 1 << 61, 3
    set_parts(endless, [(endless.size, 0)])
    stream = io.BytesIO(header(endless) + header(again) + header(small) + b"abc".ljust(512, b"\0") + bytes(1024))
    reading = Reading()
    with compressing(place / "a.tar.gz") as compressor:
        writer = ArchiveWriter(compressor)
        store(tar_entries(Members(Forward(stream)), "", reading), writer, reading)
        made = writer.finish()

    extract(place / "a.tar.gz", place / "into", exactly(made))

    assert (place / "into/src/small").read_bytes() == b"abc"
    left = [(one.name, one.harmful) for one in reading.left_out]
    assert (left, reading.second_names) == ([("src/endless", True), ("src/endless again", True)], [])
