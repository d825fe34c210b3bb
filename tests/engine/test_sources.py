"""What an image was built from, told by one digest."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from conche.engine.sources import fingerprint


def checkout(folder: Path) -> dict[str, object]:
    """A build whose Dockerfile lies beside its context, as a service's `build:`."""
    context = folder / "runner"
    (context / "programs").mkdir(parents=True)
    (context / "programs/start").write_text("#!/bin/sh\n")
    (context / "programs/start").chmod(0o755)
    (context / "notes.txt").write_text("nothing")
    (context / ".dockerignore").write_text("# not sent\n*.txt\n")
    (folder / "runner.Dockerfile").write_text("FROM scratch\n")
    return {"context": str(context), "dockerfile": "../runner.Dockerfile", "args": {"LEVEL": "1"}, "target": None}


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "runner.Dockerfile").write_text("FROM other\n"),
        lambda folder: (folder / "runner/programs/start").write_text("#!/bin/bash\n"),
        lambda folder: (folder / "runner/programs/start").chmod(0o644),
        lambda folder: (folder / "runner/programs/start").rename(folder / "runner/programs/begin"),
        lambda folder: (folder / "runner/programs/link").symlink_to("start"),
        lambda folder: (folder / "runner/programs/empty").mkdir(),
        lambda folder: (folder / "runner/.dockerignore").unlink(),
        lambda folder: (folder / "runner.Dockerfile.dockerignore").write_text("*.md\n"),
    ],
    ids=[
        "Dockerfile",
        "content",
        "executable",
        "name",
        "link",
        "folder",
        "what is ignored",
        "what another file ignores",
    ],
)
def test_a_change_of_what_a_build_gets_is_another_digest(tmp_path: Path, change: Callable[[Path], object]) -> None:
    said = checkout(tmp_path)
    before = fingerprint(said)

    change(tmp_path)

    assert fingerprint(said) != before


def test_a_build_with_other_arguments_has_another_digest(tmp_path: Path) -> None:
    said = checkout(tmp_path)

    assert fingerprint({**said, "args": {"LEVEL": "2"}}) != fingerprint(said)


def test_neither_the_place_of_a_checkout_nor_its_mask_nor_what_a_build_does_not_get_counts(tmp_path: Path) -> None:
    first, second = checkout(tmp_path / "one"), checkout(tmp_path / "two")
    (tmp_path / "two/runner/notes.txt").write_text("another")
    (tmp_path / "two/runner/secrets").mkdir()
    (tmp_path / "two/runner/secrets/token.md").write_text("a token")
    for path in (tmp_path / "two").rglob("*"):
        path.chmod(path.stat().st_mode & 0o700)
        os.utime(path, (0, 0))

    assert fingerprint(first) == fingerprint(second, without=tmp_path / "two/runner/secrets")


@pytest.mark.parametrize("context", ["https://git.example.org/us/runner.git", "/no/such/folder"])
def test_a_context_that_is_no_folder_here_counts_by_its_definition_alone(context: str) -> None:
    said = {"context": context, "dockerfile": "Dockerfile"}

    assert fingerprint(said) == fingerprint(dict(said))
