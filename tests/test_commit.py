"""Which commit a checkout is, and that asking for it disturbs nobody who works there."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from conche.commit import described


def git(folder: Path, *words: str) -> str:
    argv = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@localhost", *words]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Make a checkout with one commit of one file."""
    (tmp_path / "file").write_text("1\n")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "a")
    git(tmp_path, "tag", "v1")
    return tmp_path


def test_it_says_what_git_describe_says(checkout: Path) -> None:
    git(checkout, "commit", "--quiet", "--allow-empty", "--message", "b")

    assert described(checkout, "--tags") == git(checkout, "describe", "--tags", "--always", "--dirty")


@pytest.mark.parametrize(
    ("words", "dirty"),
    [
        (["add", "--intent-to-add", "new"], True),
        (["add", "new"], True),
        (["rm", "--quiet", "--force", "file"], True),
        (["update-index", "--chmod=+x", "file"], True),
        (["status"], False),
    ],
    ids=["meant to be added", "added", "removed", "other mode", "untracked only"],
)
def test_what_git_has_not_committed_is_said_as_git_says_it(checkout: Path, words: list[str], dirty: bool) -> None:
    (checkout / "new").write_text("2\n")
    git(checkout, *words)

    assert described(checkout, "--tags") == ("v1-dirty" if dirty else "v1")
    assert described(checkout, "--tags") == git(checkout, "describe", "--tags", "--always", "--dirty")


def test_the_index_is_neither_locked_nor_written(checkout: Path) -> None:
    # What git has noted of the file no longer fits, as after a checkout is copied: describe would write it down anew.
    os.utime(checkout / "file", (1, 1))
    index = checkout / ".git" / "index"
    before = index.stat()

    assert described(checkout, "--tags") == "v1"
    assert (index.stat().st_ino, index.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)

    git(checkout, "describe", "--dirty", "--tags")
    assert index.stat().st_ino != before.st_ino, "git describe takes no lock any more: one call would do"


@pytest.mark.parametrize("folder", ["no checkout", "no commit"])
def test_what_has_no_commit_has_no_description(tmp_path: Path, folder: str) -> None:
    if folder == "no commit":
        git(tmp_path, "init", "--quiet")

    assert described(tmp_path) == ""
