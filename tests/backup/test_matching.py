"""Patterns match what pathlib's match, and no folder is passed over without a word."""

from __future__ import annotations

import errno
import os
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from conche.backup import tree
from conche.backup.deep import remove_tree
from conche.backup.drivers import Dumping, local
from conche.backup.matching import matching
from conche.backup.reading import LeftOut, Reading
from conche.stack import Component

FILES = ("a.log", "b.txt", ".hidden.log", "logs/a.log", "logs/deep/er/b.log", "logs/deep/c.log.1", "other/x[1].log")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "link").symlink_to("logs")
    (tmp_path / "broken").symlink_to("nowhere")
    return tmp_path


PATTERNS = (
    "*", "*.log", "logs/*.log", "logs/*", "*/a.log", "**/*.log", "logs/**/*.log", "link/*.log", "a.log", "logs",
    "logs/", "logs/deep", "gone", "gone/*.log", "a.log/*", "*/deep/*", "other/x[[]1].log", "?.log", "b*", "*/*/*",
    "**/deep/**/*.log",
)  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS)
def test_it_matches_what_pathlib_does(root: Path, pattern: str) -> None:
    found = list(matching(root, pattern, reading := Reading()))

    assert sorted(found) == sorted({str(path.relative_to(root)) for path in root.glob(pattern)})
    assert reading.left_out == []


@pytest.mark.parametrize(
    ("pattern", "folders"),
    [
        ("**", [".", "logs", "logs/deep", "logs/deep/er", "other"]),
        ("logs/**", ["logs", "logs/deep", "logs/deep/er"]),
        ("broken", []),
    ],
)
def test_what_pathlib_has_changed_its_mind_about_stays_the_same(root: Path, pattern: str, folders: list[str]) -> None:
    """Python 3.13 has files for `**` as well, and links that lead nowhere; a folder stands for all of its files."""
    assert sorted(matching(root, pattern, Reading())) == folders


@pytest.mark.parametrize("pattern", ["logs/*.log", "*/*.log", "**/*.log", "logs/**/c*", "logs/a.log"])
def test_a_folder_that_cannot_be_read_is_missing_by_name(
    root: Path, monkeypatch: pytest.MonkeyPatch, pattern: str
) -> None:
    closed(monkeypatch, root / "logs")

    list(matching(root, pattern, reading := Reading()))

    [lost] = reading.left_out
    assert (lost.name in ("logs", "logs/a.log"), lost.harmful) == (True, True)
    assert "Permission denied" in lost.why


class Counted(list[LeftOut]):
    """A list that counts how often it is looked through."""

    looks = 0

    def __iter__(self) -> Iterator[LeftOut]:
        self.looks += 1
        return super().__iter__()


def test_many_that_cannot_be_read_are_not_looked_up_one_by_one(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(20):
        (root / "many" / str(number)).mkdir(parents=True)

    is_folder = Path.is_dir

    def unreadable(path: Path) -> bool:
        if path.parent == root / "many":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return is_folder(path)

    monkeypatch.setattr(Path, "is_dir", unreadable)
    reading = Reading(left_out=(left_out := Counted()))

    for _ in range(2):
        list(matching(root, "many/*", reading))

    assert left_out.looks == 0
    assert sorted(one.name for one in left_out) == sorted(f"many/{number}" for number in range(20))


def test_an_excluded_folder_need_not_be_readable(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed(monkeypatch, root / "logs")

    found = list(matching(root, "**/*.log", reading := Reading(exclude=("logs",))))

    assert (sorted(found), reading.left_out) == ([".hidden.log", "a.log", "other/x[1].log"], [])


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (("logs/**",), ["a.log", "deep/c.log.1", "deep/er/b.log"]),
        (("logs/**", "logs/deep", "logs/**/*.log"), ["a.log", "deep/c.log.1", "deep/er/b.log"]),
        (("logs/d*", "logs/**/*.log"), ["a.log", "deep/c.log.1", "deep/er/b.log"]),
    ],
    ids=["each folder", "in several ways", "one folder"],
)
def test_a_file_is_stored_once_even_if_folders_above_it_match_too(
    root: Path, tmp_path_factory: pytest.TempPathFactory, patterns: tuple[str, ...], expected: list[str]
) -> None:
    site: Any = SimpleNamespace(root=root, never=lambda: ())
    component, folder = Component(driver="files", paths=patterns), tmp_path_factory.mktemp("kept")

    record = local.dump(Dumping(site, "kept", component, folder))

    assert record.left_out == ()
    stored = [one.path for one in record.artifacts if not one.path.endswith(tree.FILE)]
    assert sorted(stored) == [f"kept/{name}" for name in expected]
    with tarfile.open(folder / tree.FILE) as kept:
        names = kept.getnames()
    assert sorted(set(names)) == sorted(names)


def test_folders_may_be_nested_deeper_than_calls(tmp_path: Path) -> None:
    depth = sys.getrecursionlimit() + 100
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)

    try:
        assert len(list(matching(tmp_path, "**", Reading()))) == depth + 1
    finally:
        remove_tree(tmp_path / "d")  # pytest's own removal may not get so deep


def closed(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let nobody read a folder, not even root."""
    listed, seen = Path.iterdir, Path.exists

    def iterdir(path: Path) -> Iterator[Path]:
        if path == folder:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return listed(path)

    def exists(path: Path) -> bool:
        if path.parent == folder:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return seen(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    monkeypatch.setattr(Path, "exists", exists)
