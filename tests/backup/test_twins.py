"""Which file of which earlier backup has the content of a new one: pure."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from conche.backup import linking
from conche.backup.manifest import Artifact, ComponentRecord


def artifact(path: str, content: str) -> Artifact:
    return Artifact(path=path, size=len(content), sha256=content)


def backup(folder: Path, **files: str) -> Any:
    """A backup with these files, each with its content."""
    for name, content in files.items():
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(content)
    made = [artifact(name, content) for name, content in files.items()]
    return SimpleNamespace(folder=folder, manifest=SimpleNamespace(artifacts=lambda: made))


def twins(new: dict[str, str], previous: list[Any], own: Path) -> dict[str, str]:
    """New file -> `backup/file` that has its content."""
    made = [artifact(name, content) for name, content in new.items()]
    found = linking._twins(made, previous, own.stat())
    return {ours.path: f"{twin.path.parent.name}/{twin.path.name}" for ours, twin in found}


def test_the_newest_backup_that_has_a_file_is_taken_however_far_back_it_is(tmp_path: Path) -> None:
    newest = [backup(tmp_path / f"b{number}", other="x") for number in range(9, 1, -1)]
    oldest = [backup(tmp_path / "b1", a="one", other="x"), backup(tmp_path / "b0", a="one")]

    assert twins({"a": "one", "other": "x", "new": "z"}, [*newest, *oldest], tmp_path) == {
        "other": "b9/other",
        "a": "b1/a",
    }


def test_each_of_equal_files_has_the_one_of_its_name_and_a_renamed_one_another(tmp_path: Path) -> None:
    there = backup(tmp_path / "b", a="one", b="one", c="other")

    assert twins({"a": "one", "b": "one", "c": "one"}, [there], tmp_path) == {"a": "b/a", "b": "b/b", "c": "b/b"}


def test_a_backup_without_manifest_or_without_the_file_has_nothing(tmp_path: Path) -> None:
    damaged = SimpleNamespace(folder=tmp_path / "d", manifest=None)
    emptied = backup(tmp_path / "e", a="one")
    (tmp_path / "e/a").unlink()

    assert twins({"a": "one"}, [damaged, emptied, backup(tmp_path / "f", a="one")], tmp_path) == {"a": "f/a"}


def test_a_file_with_as_many_names_as_there_can_be_is_stored_again_and_the_others_are_linked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = backup(tmp_path / "old", a="one", b="two")
    ours = backup(tmp_path / "new", a="one", b="two")
    record = ComponentRecord(driver="files", consistency="", artifacts=tuple(ours.manifest.artifacts()))
    link = os.link

    def full(source: Path, target: Path) -> None:
        if source.name == "a":
            raise OSError(errno.EMLINK, "Too many links")
        link(source, target)

    monkeypatch.setattr(os, "link", full)

    assert linking.linked_to(ours.folder, {"models": record}, [there]) == ([], 3)
    assert (ours.folder / "b").samefile(there.folder / "b")
    assert sorted(one.name for one in ours.folder.iterdir()) == ["a", "b"]


def in_its_place(kind: str, file: Path) -> None:
    """Put something else where a file is."""
    kept = file.rename(file.with_name("kept"))
    if kind == "link":
        file.symlink_to(kept)
    elif kind == "FIFO":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    else:
        kept.rename(file)
        file.chmod(0o666)


@pytest.mark.parametrize("kind", ["link", "FIFO", "folder", "file that others may write to"])
def test_what_is_no_file_of_ours_alone_is_passed_over_for_an_older_one(tmp_path: Path, kind: str) -> None:
    newest, oldest = backup(tmp_path / "b2", a="one"), backup(tmp_path / "b1", a="one")
    for file in (newest.folder / "a", oldest.folder / "a"):
        file.chmod(0o600)
    in_its_place(kind, newest.folder / "a")

    assert twins({"a": "one"}, [newest, oldest], tmp_path) == {"a": "b1/a"}


def test_what_is_exchanged_after_it_was_compared_is_not_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there, ours = backup(tmp_path / "old", a="one"), backup(tmp_path / "new", a="one")
    record = ComponentRecord(driver="files", consistency="", artifacts=tuple(ours.manifest.artifacts()))
    (tmp_path / "foreign").write_text("one")
    link = os.link
    monkeypatch.setattr(os, "link", lambda _, target: link(tmp_path / "foreign", target))

    assert linking.linked_to(ours.folder, {"models": record}, [there]) == ([], 0)
    assert (ours.folder / "a").stat().st_nlink == 1
