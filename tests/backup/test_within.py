"""Something else in place of a backup's files: nothing waits for it, follows it, or takes it for what was backed up."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from conche import formats
from conche.backup import deep, legacy, manifest, notes, sync, verify, within
from conche.backup.manifest import Artifact, ComponentRecord, Manifest
from conche.backup.target import CheckRecord, Target
from conche.errors import CheckFailed
from tests.backup.checkouts import Checkout
from tests.backup.hostile import deep_folder

NAME = "factory_daily_20260102_030405"
CONTENT = b"what was backed up"


def fifo(place: Path, _: Path) -> None:
    os.mkfifo(place)


def device(place: Path, _: Path) -> None:
    """A device, made by whoever may make one; a link to one by anybody else."""
    try:
        os.mknod(place, 0o600 | 0o020000, os.makedev(1, 5))
    except PermissionError:
        place.symlink_to("/dev/zero")


def linked_fifo(place: Path, kept: Path) -> None:
    fifo = kept.with_name(f"fifo of {place.name}")
    os.mkfifo(fifo)
    place.symlink_to(fifo)


def listening(place: Path, _: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        descriptor = os.open(place.parent, os.O_RDONLY)  # an address has 108 bytes at most
        bound.bind(f"/proc/self/fd/{descriptor}/{place.name}")
        os.close(descriptor)


INSTEAD: dict[str, Callable[[Path, Path], None]] = {
    "FIFO": fifo,
    "device": device,
    "socket": listening,
    "folder": lambda place, _: place.mkdir(),
    "link to the same": lambda place, kept: place.symlink_to(kept),
    "link to a FIFO": linked_fifo,
    "dangling link": lambda place, _: place.symlink_to("nowhere"),
}
"""What stands in place of a file or folder, which is kept elsewhere: the next attack is one more line."""

PLACES = ["manifest.json", "models/one", "models"]


@pytest.fixture
def target(tmp_path: Path) -> Target:
    """A target with a backup of one file."""
    made = Target(tmp_path / "target", "factory", "any")
    folder = made.folder / "daily" / NAME
    (folder / "models").mkdir(parents=True)
    (folder / "models/one").write_bytes(CONTENT)
    one = Artifact(path="models/one", size=len(CONTENT), sha256=hashlib.sha256(CONTENT).hexdigest())
    record = ComponentRecord(driver="files", artifacts=(one,), facts={"folder": "models"})
    known = Manifest(
        name=NAME, stack="factory", kind="daily", created=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), seconds=1,
        complete=True, components={"models": record},
    )  # fmt: skip
    (folder / manifest.FILE).write_bytes(known.render())
    made.records.mkdir(parents=True)
    return made


@pytest.fixture
def folder(target: Target) -> Path:
    return target.folder / "daily" / NAME


def replace(folder: Path, name: str, instead: str) -> None:
    kept = folder.parents[2] / "kept"
    (folder / name).rename(kept)
    INSTEAD[instead](folder / name, kept)


@pytest.mark.parametrize("instead", INSTEAD)
@pytest.mark.parametrize("name", PLACES)
def test_it_is_damage_that_is_named(target: Target, folder: Path, name: str, instead: str) -> None:
    [one] = target.backups()
    known = one.manifest
    assert known is not None

    replace(folder, name, instead)

    [again] = target.backups()
    if name == manifest.FILE:
        assert again.manifest is None
        assert target.record(again) == CheckRecord()
        result = verify._verified(site(target), again, deep=True, inodes={})
        assert [one.path for one in result.damage] == [manifest.FILE]
        with pytest.raises(CheckFailed, match="damaged"):
            legacy.described(site(target), again)
    else:
        assert f"{name} is" in " ".join(map(str, verify.check(folder, known, deep=True))) or instead == "folder"
        assert "models/one" in {one.path for one in verify.check(folder, known, deep=True)}


@pytest.mark.parametrize("instead", INSTEAD)
@pytest.mark.parametrize("name", PLACES[1:])
def test_it_is_neither_copied_nor_sent(target: Target, folder: Path, tmp_path: Path, name: str, instead: str) -> None:
    [one] = target.backups()
    assert one.manifest is not None
    replace(folder, name, instead)
    (tmp_path / "sent").mkdir()

    with pytest.raises(CheckFailed) as refused:
        sync._laid_out(folder, one.manifest.components["models"].artifacts[0], tmp_path / "sent")

    assert refused.value.code == "backup-damaged"


@pytest.mark.parametrize("instead", INSTEAD)
@pytest.mark.parametrize("name", PLACES[1:])
def test_it_is_not_put_together_from(target: Target, folder: Path, tmp_path: Path, name: str, instead: str) -> None:
    known = manifest.read(folder)
    replace(folder, name, instead)
    (tmp_path / "built").mkdir()

    sync._put_together(folder, tmp_path / "built", known)

    assert (tmp_path / "built/models/one").read_bytes() == b""
    assert [one.path for one in verify.check(tmp_path / "built", known)] == ["models/one"]


@pytest.mark.parametrize("instead", INSTEAD)
def test_what_is_known_about_a_backup_is_read_from_a_file_alone(target: Target, instead: str, tmp_path: Path) -> None:
    [one] = target.backups()
    target.note(one, CheckRecord(verified=datetime.now(UTC)))
    file = target.records / f"{NAME}.json"
    assert target.record(one).verified is not None

    file.rename(tmp_path / "kept")
    INSTEAD[instead](file, tmp_path / "kept")

    assert target.record(one) == CheckRecord()


@pytest.mark.parametrize("instead", INSTEAD)
def test_a_mark_is_read_from_a_file_alone(target: Target, instead: str) -> None:
    target.mark.settle()
    number = target.mark._present()
    mark = target.folder / ".conche-target"
    mark.rename(target.folder.parent / "kept")
    INSTEAD[instead](mark, target.folder.parent / "kept")

    assert number
    assert target.mark._present() != number


@pytest.mark.parametrize("instead", INSTEAD)
def test_a_backup_of_the_old_script_is_read_from_files_alone(target: Target, folder: Path, instead: str) -> None:
    (folder / manifest.FILE).unlink()
    replace(folder, "models", instead)
    (folder / "code").mkdir()
    (folder.parents[2] / "file").write_text("x")
    INSTEAD[instead](folder / "code/src.tar.gz", folder.parents[2] / "file")
    [one] = target.backups()

    known = legacy.described(site(target), one)
    result = verify._verified(site(target), one, deep=True, inodes={})

    assert [one for record in known.components.values() for one in record.artifacts] == []
    assert [one.path for one in result.damage] == ["code/src.tar.gz"]


@pytest.mark.parametrize("name", ["../kept", "/etc/passwd", "models/../models/one", "models//one", "", ".", "a\0b"])
def test_a_path_that_leads_elsewhere_is_not_opened(folder: Path, name: str) -> None:
    with pytest.raises((OSError, ValueError)):
        within.opened(folder, name)


def test_what_is_used_is_what_was_verified(folder: Path, tmp_path: Path) -> None:
    """A file that is exchanged after it was verified, and while it is read, is found before it counts."""
    one = manifest.read(folder).components["models"].artifacts[0]
    for spoiled in (CONTENT.upper(), CONTENT + b"!", CONTENT[:-1], b""):
        (folder / one.path).write_bytes(spoiled)
        with pytest.raises(CheckFailed, match="is not what the manifest says"):
            sync._laid_out(folder, one, tmp_path / "sent")
        shutil.rmtree(tmp_path / "sent")


def site(target: Target) -> Any:
    component = SimpleNamespace(driver="files", paths=("models",))
    section = SimpleNamespace(components={"models": component})
    return SimpleNamespace(target=target, say=lambda _: None, section=section, stack=SimpleNamespace(name="factory"))


@pytest.mark.parametrize("instead", INSTEAD)
def test_a_note_is_read_from_a_file_alone(tmp_path: Path, instead: str) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "kept").write_text("{}")
    INSTEAD[instead](tmp_path / "notes/one.json", tmp_path / "kept")

    with pytest.raises(notes.Damaged):
        notes.read(tmp_path / "notes/one.json", formats.JOURNAL, lambda content: content)


@pytest.mark.parametrize(("depth", "name"), [(1_200, "d"), (30, "d" * 200)], ids=["many levels", "longer than a path"])
def test_a_folder_without_bottom_is_measured_found_and_removed(
    target: Target, folder: Path, depth: int, name: str
) -> None:
    [one] = target.backups()
    assert one.manifest is not None
    size = one.size
    (folder / "strange").mkdir()
    deep_folder(folder / "strange", depth, name)
    swept = target.store / "trash-strange"
    shutil.copytree(folder / "models", swept)
    deep_folder(swept, depth, name)

    assert one.size == size
    assert [found.path for found in verify.check(folder, one.manifest)] == ["strange"]
    target.sweep()
    target.discard(one)
    assert not swept.exists()
    assert target.backups() == []
    assert list(target.store.glob("trash-*")) == []


def test_what_cannot_be_removed_stays_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in ("a/b/one", "a/two", "three"):
        (tmp_path / "top" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "top" / file).write_text("")
    unlink = os.unlink

    def held(name: str, *, dir_fd: int) -> None:
        if name == "two":
            raise PermissionError(errno.EPERM, "is immutable", name)
        unlink(name, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", held)
    with pytest.raises(PermissionError):
        deep.remove_tree(tmp_path / "top")

    assert [path.name for path in (tmp_path / "top").rglob("*") if path.is_file()] == ["two"]


@pytest.mark.process
@pytest.mark.parametrize("name", ["manifest.json", "code/src.tar.gz", "models"])
def test_no_command_waits_for_a_fifo(tmp_path: Path, name: str) -> None:
    checkout = Checkout.create(tmp_path)
    folder = checkout.create_backup()
    replace(folder, name, "FIFO")
    before = (checkout.folder / "models/prophet_1.pkl").read_text()

    codes = {
        words[0]: checkout.invoke(*words).returncode
        for words in (
            ("backup.list",), ("backup.create",), ("backup.verify", folder.name),
            ("backup.restore", folder.name, "--force"), ("backup.drill", folder.name),
        )
    }  # fmt: skip

    assert codes == {"backup.list": 0, "backup.create": 0, "backup.verify": 1, "backup.restore": 1, "backup.drill": 1}
    assert (checkout.folder / "models/prophet_1.pkl").read_text() == before
