"""secrets.scan of what git has: every version, wherever it was once; git itself shows no value."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from conche.process import ToolFailed
from conche.secret import Secret
from conche.vault import leaks
from conche.vault.leaks import (
    Leak,
    Needles,
    scan_history,
    scan_index,
    scan_worktree,
)
from tests.secrets.test_scan import Checkout, checkout, needles, places

__all__ = ["checkout", "needles"]


def test_a_deleted_file_is_found_with_the_commit_that_brought_it(
    canary: str, needles: Needles, checkout: Checkout
) -> None:
    checkout.commit("clean.txt", "clean")
    brought = checkout.commit("conf/app.env", f"A=1\nTOKEN={canary}\nAGAIN={canary}\n")
    checkout.git("mv", "conf/app.env", "moved.env")
    checkout.git("commit", "--quiet", "--message", "moved")
    checkout.git("rm", "--quiet", "moved.env")
    checkout.git("commit", "--quiet", "--message", "removed")

    assert scan_history(checkout.root, needles) == (Leak("token", f"{brought}:conf/app.env", "history", 2),)
    assert scan_worktree(checkout.root, needles) == ()


def test_a_commit_that_was_amended_away_is_found_by_its_blob(canary: str, needles: Needles, checkout: Checkout) -> None:
    checkout.commit("file.txt", canary)
    blob = checkout.git("rev-parse", "HEAD:file.txt")
    checkout.commit("file.txt", "clean", "--amend")
    loose = scan_history(checkout.root, needles)
    checkout.git("repack", "-a", "-d", "--quiet")

    assert loose == (Leak("token", f"blob {blob[:12]}", "history", 1),)
    assert scan_history(checkout.root, needles) == loose


def test_every_version_on_every_branch_tag_and_stash_is_found(
    canary: str, needles: Needles, checkout: Checkout
) -> None:
    checkout.commit("file.txt", "clean")
    first = checkout.commit("file.txt", f"{canary} first")
    second = checkout.commit("file.txt", f"{canary} second")
    checkout.git("switch", "--quiet", "--create", "side", "HEAD~2")
    third = checkout.commit("side.txt", f"{canary} third")
    checkout.git("tag", "kept")
    checkout.git("switch", "--quiet", "main")
    checkout.git("branch", "--quiet", "-D", "side")
    checkout.write("file.txt", f"{canary} fourth")
    checkout.git("stash", "--quiet")
    stash = checkout.git("rev-parse", "stash")[:12]

    expected = {f"{first}:file.txt", f"{second}:file.txt", f"{third}:side.txt", f"{stash}:file.txt"}
    assert set(places(scan_history(checkout.root, needles))) == expected


def test_what_only_a_merge_brought_is_found(canary: str, needles: Needles, checkout: Checkout) -> None:
    checkout.commit("file.txt", "clean")
    checkout.git("switch", "--quiet", "--create", "side")
    checkout.commit("side.txt", "clean too")
    checkout.git("switch", "--quiet", "main")
    checkout.commit("main.txt", "also clean")
    checkout.git("merge", "--quiet", "--no-commit", "--no-ff", "side")
    merge = checkout.commit("slipped-in.txt", canary)

    assert places(scan_history(checkout.root, needles)) == [f"{merge}:slipped-in.txt"]


def test_messages_of_commits_and_tags_and_names_of_files_are_searched(canary: str, checkout: Checkout) -> None:
    values = {name: f"{name}-{uuid.uuid4().hex}" for name in ("commit", "tag", "tree")}
    needles = Needles({name: Secret(value) for name, value in values.items()})
    checkout.commit(f"folder/{values['tree']}", "one", message=f"uses {values['commit']}")
    commit = checkout.head()
    checkout.commit("folder/another", "two")
    checkout.git("tag", "--annotate", "--message", values["tag"], "v1")

    found = {one.name: one for one in scan_history(checkout.root, needles)}

    assert found["commit"].place == f"commit {commit}"
    assert found["tag"].place == f"tag {checkout.git('rev-parse', 'v1')[:12]}"
    assert found["tree"].place.startswith("tree ")
    assert len(found) == len(scan_history(checkout.root, needles)) == 3


def test_a_replacement_does_not_hide_what_it_replaces(canary: str, needles: Needles, checkout: Checkout) -> None:
    brought = checkout.commit("file.txt", canary)
    clean = checkout.git("hash-object", "-w", "--stdin", stdin=b"clean")
    checkout.git("replace", checkout.git("rev-parse", "HEAD:file.txt"), clean)

    assert f"{brought}:file.txt" in places(scan_history(checkout.root, needles))


def test_objects_of_any_size_are_read_in_bounded_batches(
    canary: str, needles: Needles, checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leaks, "BATCH", 3000)
    for number in range(5):
        checkout.write(f"small-{number}", f"{number} {canary}\n")
    checkout.write("empty", "")
    checkout.write("no newline", canary)
    checkout.commit("large", b"\xff" * 5000 + canary.encode())
    sizes = [leaks._Object(str(number), "blob", size) for number, size in enumerate([9000, 2000, 1000, 1, 2999])]

    assert [[thing.size for thing in batch] for batch in leaks._batches(sizes)] == [[9000], [2000, 1000], [1, 2999]]
    assert len(scan_history(checkout.root, needles)) == 7


def test_a_repository_without_a_commit_has_nothing(needles: Needles, checkout: Checkout) -> None:
    assert scan_worktree(checkout.root, needles) == ()
    assert scan_index(checkout.root, needles) == ()
    assert scan_history(checkout.root, needles) == ()


@pytest.mark.parametrize("search", [scan_worktree, scan_index, scan_history])
def test_a_folder_that_is_no_repository_fails_in_the_words_of_git(
    search: Callable[[Path, Needles], object], needles: Needles, tmp_path: Path
) -> None:
    with pytest.raises(ToolFailed) as failed:
        search(tmp_path, needles)

    assert [line for line in failed.value.evidence if "not a git repository" in line.lower()]


@pytest.fixture
def fake_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Put a shell script before the real git, which it knows as $REAL."""

    def place(script: str) -> None:
        program = tmp_path / "bin" / "git"
        program.parent.mkdir()
        program.write_text(f"#!/bin/sh\nREAL='{shutil.which('git')}'\n{script}")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")

    return place


def test_no_value_stands_in_argv(
    canary: str, needles: Needles, checkout: Checkout, fake_git: Callable[[str], None], tmp_path: Path
) -> None:
    checkout.commit(f"file-{canary}", canary)
    fake_git(f'echo "$@" >> \'{tmp_path}/said\'; exec "$REAL" "$@"\n')

    scan_worktree(checkout.root, needles)
    scan_index(checkout.root, needles)
    scan_history(checkout.root, needles)

    said = (tmp_path / "said").read_text()
    assert canary[:20] not in said
    assert "--batch-all-objects" in said


def test_a_git_that_dies_over_a_secret_does_not_show_it_in_the_error(
    canary: str, needles: Needles, checkout: Checkout, fake_git: Callable[[str], None]
) -> None:
    fake_git(f'echo "{canary[:30]}"; exit 9\n')

    with pytest.raises(ToolFailed) as failed:
        scan_history(checkout.root, needles)

    assert canary[:30] not in json.dumps(failed.value.as_json())
