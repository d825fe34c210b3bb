"""Patterns match what pathlib's match, and no folder is passed over without a word."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from conche.backup.deep import remove_tree
from conche.backup.entries import Reading
from conche.backup.matching import matching

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
    "*", "*.log", "logs/*.log", "logs/*", "*/a.log", "**/*.log", "logs/**/*.log", "**", "logs/**", "link/*.log",
    "a.log", "logs", "logs/", "logs/deep", "gone", "gone/*.log", "a.log/*", "*/deep/*", "other/x[[]1].log", "?.log",
    "broken", "b*", "*/*/*", "**/deep/**/*.log",
)  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS)
def test_it_matches_what_pathlib_does(root: Path, pattern: str) -> None:
    found = list(matching(root, pattern, reading := Reading()))

    assert sorted(found) == sorted({str(path.relative_to(root)) for path in root.glob(pattern)})
    assert reading.left_out == []


@pytest.mark.parametrize("pattern", ["logs/*.log", "*/*.log", "**/*.log", "logs/**/c*", "logs/a.log"])
def test_a_folder_that_cannot_be_read_is_missing_by_name(
    root: Path, monkeypatch: pytest.MonkeyPatch, pattern: str
) -> None:
    closed(monkeypatch, root / "logs")

    list(matching(root, pattern, reading := Reading()))

    [lost] = reading.left_out
    assert (lost.name in ("logs", "logs/a.log"), lost.harmful) == (True, True)
    assert "Permission denied" in lost.why


def test_an_excluded_folder_need_not_be_readable(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed(monkeypatch, root / "logs")

    found = list(matching(root, "**/*.log", reading := Reading(exclude=("logs",))))

    assert (sorted(found), reading.left_out) == ([".hidden.log", "a.log", "other/x[1].log"], [])


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
