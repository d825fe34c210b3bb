"""What tar is told to leave out of a volume, against how exclusions are meant; and which image has it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import docker.errors
import pytest

from conche.backup.reading import Reading
from conche.engine import gnutar, packing, volumes
from conche.engine.connection import EngineRefused
from conche.engine.packing import PACK, excluding, helping
from tests.engine.answering import answering

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


class Api:
    """An engine with two damaged images, one that is gone meanwhile, and perhaps one that works."""

    def __init__(self, *more: str) -> None:
        self.listed = ["damaged", "gone", "broken", *more]
        self.removed: list[str] = []

    def images(self) -> list[dict[str, str]]:
        return [{"Id": one} for one in self.listed]

    def containers(self, **_: object) -> list[object]:
        return []

    def create_host_config(self, **_: object) -> dict[str, object]:
        return {}

    def create_container(self, image: str, *_: object, **__: object) -> dict[str, str]:
        if image == "gone":
            raise docker.errors.ImageNotFound("No such image")
        if image != "whole":
            raise docker.errors.APIError(f"{image}: layer does not exist")
        return {"Id": "made"}

    def remove_container(self, made: str, **_: object) -> None:
        self.removed.append(made)


@pytest.mark.parametrize("packs", [True, False], ids=["with GNU tar", "without"])
def test_an_image_that_is_damaged_is_passed_over(monkeypatch: pytest.MonkeyPatch, packs: bool) -> None:
    api = without_own(monkeypatch, Api("whole"), packs=packs)

    with helping(answering(api), "kept") as helper:
        found = (helper.id, helper.packs)

    assert found == ("made", packs)
    assert api.removed == ["made"] * (1 if packs else 2)


def test_what_is_wrong_with_all_of_them_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    api = without_own(monkeypatch, Api(), packs=True)

    with pytest.raises(EngineRefused) as refused, helping(answering(api), "kept"):
        pass

    assert list(refused.value.evidence) == ["broken: layer does not exist"]


def without_own(monkeypatch: pytest.MonkeyPatch, api: Any, *, packs: bool) -> Any:
    """The same, on a machine without GNU tar of its own."""
    monkeypatch.setattr(gnutar, "provide", lambda _: None)
    monkeypatch.setattr(packing, "_packs", lambda *_: packs)
    monkeypatch.setattr(volumes, "using", lambda *_: [])
    return api
