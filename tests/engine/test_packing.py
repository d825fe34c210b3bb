"""What tar is told to leave out of a volume, against how exclusions are meant."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from conche.backup.entries import Reading
from conche.engine.packing import PACK, excluding

NAMES = (
    ".hidden/kept", "a/cache/x", "a/logs/b/x.gz", "b.log", "cache/y", "d/e/f.log", "é", "a\\b", "z/[x]", "^b", "log.gz",
)  # fmt: skip


def packed(folder: Path, *patterns: str) -> set[str]:
    """The files that tar packs with these exclusions."""
    stream = subprocess.run(
        [*PACK, f"--directory={folder}", *excluding(patterns), "."], capture_output=True, check=True
    ).stdout
    listed = subprocess.run(
        ["tar", "--list", "--quoting-style=literal"], input=stream, capture_output=True, check=True, env={"LC_ALL": "C"}
    ).stdout.decode()
    return {name.removeprefix("./") for name in listed.splitlines() if not name.endswith("/")}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in NAMES:
        path = tmp_path / "volume" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path / "volume"


@pytest.mark.parametrize(
    "pattern", [".*", "*", "?", "??", "log*.gz", "a*", "a/*", "*/x", "[^a]*", "[!a]", "[[:alpha:]]*", "\\"]
)
def test_tar_leaves_out_nothing_that_the_rules_keep(folder: Path, pattern: str) -> None:
    reading = Reading(exclude=(pattern,))

    assert packed(folder, pattern) >= {name for name in NAMES if not reading.excludes_own(name)}


@pytest.mark.parametrize(
    ("pattern", "unread"),
    [
        ("cache", {"a/cache/x", "cache/y"}),
        ("*.log", {"b.log", "d/e/f.log"}),
        ("a/*", {"a/cache/x", "a/logs/b/x.gz"}),
        ("a\\b", {"a\\b"}),
    ],
)
def test_what_is_left_out_by_name_or_path_is_not_even_read(folder: Path, pattern: str, unread: set[str]) -> None:
    assert set(NAMES) - packed(folder, pattern) == unread
