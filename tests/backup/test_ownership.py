"""A target that others can write to: nothing of theirs is followed, emptied or waited for, and it is said."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from conche.backup import holding, notes, ownership
from conche.backup.notes import Damaged
from conche.backup.target import Target
from conche.errors import Locked, Refused
from conche.formats import WAITING

OTHER = 54_989
"""A user that nobody is, in no surroundings of the tests either."""

VICTIM = "of the user"


@pytest.fixture
def target(tmp_path: Path) -> Target:
    """A target after its first use."""
    made = Target(tmp_path / "backups", "factory")
    with made.locked("a test"):
        pass
    return made


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    file = tmp_path / "victim"
    file.write_text(VICTIM)
    return file


def link(place: Path, victim: Path) -> None:
    place.symlink_to(victim)


def hard_link(place: Path, victim: Path) -> None:
    place.hardlink_to(victim)


def fifo(place: Path, victim: Path) -> None:
    os.mkfifo(place)


def folder(place: Path, victim: Path) -> None:
    place.mkdir()


def dangling(place: Path, victim: Path) -> None:
    place.symlink_to(victim.with_name("new"))


@pytest.mark.parametrize("put", [link, hard_link, fifo, folder, dangling])
def test_what_stands_in_place_of_the_lock_is_not_touched(
    target: Target, victim: Path, put: Callable[[Path, Path], None]
) -> None:
    place = target.store / "backup.lock"
    place.unlink()
    put(place, victim)

    with pytest.raises(Refused) as refused, target.locked("a test"):
        pass

    assert (refused.value.code, refused.value.looked_at) == ("lock-not-a-file", (str(place),))
    assert victim.read_text() == VICTIM
    assert not victim.with_name("new").exists()


def test_a_lock_of_any_bytes_is_no_traceback(target: Target) -> None:
    (target.store / "backup.lock").write_bytes(b"\xff\xfe\x00")

    with target.locked("a test"), pytest.raises(Locked), target.locked("another"):
        pass


@pytest.mark.parametrize("put", [link, fifo, folder])
def test_what_stands_in_place_of_a_note_is_neither_read_nor_waited_for(
    target: Target, victim: Path, put: Callable[[Path, Path], None]
) -> None:
    place = target.store / holding.NOTE
    put(place, victim)

    with pytest.raises(Damaged):
        notes.read(place, WAITING, str)


@pytest.mark.parametrize("name", [".store", ".store/records"])
@pytest.mark.parametrize("put", [link, fifo, dangling])
def test_a_link_in_place_of_the_store_is_refused(
    target: Target, tmp_path: Path, name: str, put: Callable[[Path, Path], None]
) -> None:
    place, elsewhere = target.folder / name, tmp_path / "elsewhere"
    elsewhere.mkdir()
    if place.exists():
        place.rename(tmp_path / "away")
    put(place, elsewhere)

    with pytest.raises(Refused) as refused, target.locked("a test"):
        pass

    assert (refused.value.code, refused.value.looked_at) == ("target-foreign", (str(place),))
    assert list(elsewhere.iterdir()) == []


def given_away(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make what a user owns somebody else's: root gives it away, anybody else becomes another."""
    if os.geteuid() == 0:
        os.chown(place, OTHER, OTHER)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: OTHER)
        monkeypatch.setattr(ownership, "_owner_of_new", lambda _: OTHER)


def test_a_store_of_somebody_else_is_refused(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    given_away(target.store, monkeypatch)

    with pytest.raises(Refused, match="belongs to user") as refused, target.locked("a test"):
        pass

    assert refused.value.code == "target-foreign"


def test_a_share_that_gives_all_files_to_one_user_is_ours(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    given_away(target.store, monkeypatch)
    monkeypatch.setattr(ownership, "_owner_of_new", lambda _: target.store.stat().st_uid)

    with target.locked("a test"):
        pass


def test_whose_a_new_file_becomes_is_found_out_without_a_trace(tmp_path: Path) -> None:
    assert ownership._owner_of_new(tmp_path) == os.geteuid()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("mode", "said"), [(0o700, False), (0o755, False), (0o770, True), (0o775, True), (0o777, True), (0o1777, False)]
)
def test_a_folder_that_others_may_write_to_is_said(
    target: Target, mode: int, said: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    target.folder.chmod(mode)
    monkeypatch.setattr(ownership, "_is_private_group", lambda _: False)

    exposed = ownership.exposure(target.folder, target.store)

    assert (f"others can write to {target.folder}" in exposed) == said
    assert bool(exposed) == said


def test_a_group_of_its_own_is_no_other() -> None:
    """Where every user has a group of their own, folders are writable by it."""
    own, shared = (os.stat_result((0o40775, 1, 1, 2, 1000, group, 0, 0, 0, 0)) for group in (1000, 100))

    assert (ownership._is_private_group(own), ownership._is_private_group(shared)) == (True, False)


def test_a_folder_of_somebody_else_is_said_and_not_refused(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() == 0:
        os.chown(target.folder, OTHER, OTHER)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: OTHER)

    assert "belongs to user" in ownership.exposure(target.folder, target.store)
