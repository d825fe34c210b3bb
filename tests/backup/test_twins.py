"""Which file of which earlier backup has the content of a new one: pure."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from conche.backup import create
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


def twins(new: dict[str, str], previous: list[Any]) -> dict[str, str]:
    """New file -> `backup/file` that has its content."""
    made = [artifact(name, content) for name, content in new.items()]
    return {ours.path: f"{twin.parent.name}/{twin.name}" for ours, twin in create._twins(made, previous)}


def test_the_newest_backup_that_has_a_file_is_taken_however_far_back_it_is(tmp_path: Path) -> None:
    newest = [backup(tmp_path / f"b{number}", other="x") for number in range(9, 1, -1)]
    oldest = [backup(tmp_path / "b1", a="one", other="x"), backup(tmp_path / "b0", a="one")]

    assert twins({"a": "one", "other": "x", "new": "z"}, [*newest, *oldest]) == {"other": "b9/other", "a": "b1/a"}


def test_each_of_equal_files_has_the_one_of_its_name_and_a_renamed_one_another(tmp_path: Path) -> None:
    there = backup(tmp_path / "b", a="one", b="one", c="other")

    assert twins({"a": "one", "b": "one", "c": "one"}, [there]) == {"a": "b/a", "b": "b/b", "c": "b/b"}


def test_a_backup_without_manifest_or_without_the_file_has_nothing(tmp_path: Path) -> None:
    damaged = SimpleNamespace(folder=tmp_path / "d", manifest=None)
    emptied = backup(tmp_path / "e", a="one")
    (tmp_path / "e/a").unlink()

    assert twins({"a": "one"}, [damaged, emptied, backup(tmp_path / "f", a="one")]) == {"a": "f/a"}


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

    assert create._linked(ours.folder, {"models": record}, [there]) == ([], 3)
    assert (ours.folder / "b").samefile(there.folder / "b")
    assert sorted(one.name for one in ours.folder.iterdir()) == ["a", "b"]
