"""A target is known again by its mark: a disk that is not mounted is not filled, nor what stands in its place."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from conche.backup import mark
from conche.backup.mark import FILE, Mark
from conche.backup.target import Target
from conche.errors import Unreachable
from conche.files import state_folder
from tests.backup.checkouts import Checkout, tree


def number(folder: Path) -> str:
    return str(json.loads((folder / FILE).read_text())["target"])


@pytest.fixture
def used(tmp_path: Path) -> Target:
    """A target after its first use."""
    target = Target(tmp_path / "nas/backups", "factory")
    with target.locked("a test"):
        pass
    return target


def test_where_the_mark_was_and_is_not_nothing_is_read_or_made(used: Target) -> None:
    used.folder.parent.rename(used.folder.parent.with_name("unmounted"))

    with pytest.raises(Unreachable, match="Is the disk mounted") as refused, used.locked("a test"):
        pass
    with pytest.raises(Unreachable):
        used.backups()

    assert (refused.value.code, refused.value.status) == ("target-not-mounted", 9)
    assert not used.folder.parent.exists()
    used.folder.parent.with_name("unmounted").rename(used.folder.parent)
    with used.locked("a test"):
        assert used.backups() == []


@pytest.mark.parametrize("left", ["empty", "half", "rotten"])
def test_a_kill_at_the_first_use_is_made_good(tmp_path: Path, left: str, monkeypatch: pytest.MonkeyPatch) -> None:
    target = Target(tmp_path / "backups", "factory")

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(mark, "write_atomic", killed)
        with pytest.raises(KeyboardInterrupt), target.locked("a test"):
            pass
    assert not (target.folder / FILE).exists()
    if left == "half":
        (target.folder / f".{FILE}.abcdefgh").write_text('{"tar')
    if left == "rotten":
        (target.folder / FILE).write_text('{"tar')

    with target.locked("a test"):
        first = number(target.folder)
    with target.locked("a test"):
        assert number(target.folder) == first
    assert [path.name for path in target.folder.iterdir() if FILE in path.name] == [FILE]


def test_a_mark_that_nobody_here_remembers_is_taken_over(used: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    before = number(used.folder)
    monkeypatch.setenv("XDG_STATE_HOME", str(used.folder.parent / "another host"))

    with used.locked("a test"):
        assert number(used.folder) == before

    (used.folder / FILE).unlink()
    with pytest.raises(Unreachable):
        used.require()


def test_disks_that_take_turns_are_both_known(used: Target) -> None:
    away = used.folder.with_name("first disk")
    used.folder.rename(away)
    second = Target(used.folder, "factory", "anew")
    with second.locked("a test"):
        pass
    marks = {number(away), number(used.folder)}
    used.folder.rename(used.folder.with_name("second disk"))
    away.rename(used.folder)

    with used.locked("a test"):
        assert number(used.folder) in marks
    assert len(marks) == 2


@pytest.mark.parametrize("content", [b"", b"[]", b'{"marks": 1}', b"\xff", b"[" * 100_000])
def test_a_state_that_cannot_be_read_is_none(used: Target, content: bytes) -> None:
    [state] = (state_folder() / "factory").glob("target-*.json")
    state.write_bytes(content)

    with used.locked("a test"):
        pass

    assert json.loads(state.read_text())["marks"] == [number(used.folder)]


@pytest.mark.parametrize("content", [b"", b'{"marks": 1}', b"\xff"])
def test_a_state_that_cannot_be_read_lets_no_empty_mount_point_pass_for_the_target(
    used: Target, content: bytes
) -> None:
    [state] = (state_folder() / "factory").glob("target-*.json")
    state.write_bytes(content)
    used.folder.parent.rename(used.folder.parent.with_name("unmounted"))

    with pytest.raises(Unreachable, match="Is the disk mounted"), used.locked("a test"):
        pass

    assert state.read_bytes() == content


def test_stacks_and_folders_have_marks_of_their_own(used: Target, tmp_path: Path) -> None:
    for other in (Target(tmp_path / "nas/other", "factory"), Target(tmp_path / "elsewhere", "another")):
        assert not Mark(other.folder, other.stack).is_lost()


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    made = Checkout.create(tmp_path)
    made.replace("stack.yaml", "backup:\n", "backup:\n  target: mnt/nas/backups\n")
    return made


@pytest.mark.process
def test_no_command_takes_an_empty_mount_point_for_the_target(checkout: Checkout) -> None:
    nas = checkout.folder / "mnt/nas"
    folder = Path(checkout.json("backup.create")["folder"])
    nas.rename(nas.with_name("disk"))
    nas.mkdir()

    commands = ["create", "create --dry-run", "list", "status", "verify", "prune", "drill", "report", "show latest"]
    refused = {words: checkout.invoke(*f"backup.{words}".split()) for words in commands}

    assert {words: done.returncode for words, done in refused.items()} == dict.fromkeys(commands, 9)
    assert all("target-not-mounted" in done.stderr for done in refused.values())
    assert list(nas.iterdir()) == []
    anew = checkout.json("backup.create", "--new-target")
    assert Path(anew["folder"]).parent == folder.parent
    assert checkout.invoke("backup.create").returncode == 0


@pytest.mark.process
def test_where_nothing_can_be_remembered_backups_go_on_and_this_is_said(checkout: Checkout) -> None:
    occupied = {"XDG_STATE_HOME": str(checkout.folder / "stack.yaml")}

    done = [checkout.invoke("backup.create", **occupied) for _ in range(2)]

    assert [one.returncode for one in done] == [0, 0], done
    assert all("a target that is not mounted would go unnoticed" in one.stderr for one in done)


@pytest.mark.process
def test_backups_of_an_older_version_are_adopted(checkout: Checkout) -> None:
    target = checkout.folder / "mnt/nas/backups"
    checkout.invoke("backup.create")
    before = tree(target, without=(FILE, ".store"))
    (target / FILE).unlink()
    elsewhere = {"XDG_STATE_HOME": str(checkout.folder.parent / "state")}

    verified = checkout.invoke("backup.verify", **elsewhere)

    assert verified.returncode == 0, verified.stderr
    assert tree(target, without=(FILE, ".store")) == before
    (target / FILE).unlink()
    assert checkout.invoke("backup.verify", **elsewhere).returncode == 9


@pytest.mark.process
@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
def test_a_disk_that_is_mounted_and_unmounted(checkout: Checkout) -> None:
    nas = checkout.folder / "mnt/nas"
    nas.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "conche-test", str(nas)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        first = checkout.invoke("backup.create")
    finally:
        subprocess.run(["umount", str(nas)], check=True)

    assert first.returncode == 0, first.stderr
    assert checkout.invoke("backup.create").returncode == 9
    assert list(nas.iterdir()) == []
