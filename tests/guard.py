"""Keep unit tests pure: a test that starts Conche or Docker's programs has to say so with a marker."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Sequence
from pathlib import PurePath
from typing import Any

import pytest

OURS = ("docker", "dockerd", "invoke", "nox", "python", "ssh", "restic")
"""How names begin of programs that are Conche or take long; tools that packages install, such as sops, may run."""

_watched: list[str] = []


def _watch(event: str, arguments: Sequence[Any]) -> None:
    if not _watched or event not in ("subprocess.Popen", "tests.warm.fork"):
        return
    argv = arguments[1] if event == "subprocess.Popen" else [sys.executable]
    words = [os.fsdecode(word) for word in (argv if isinstance(argv, list | tuple) else [argv])]
    # Conche starts programs that must end with it through setpriv(1).
    if words and PurePath(words[0]).name == "setpriv" and "--" in words:
        words = words[words.index("--") + 1 :]
    if words and (PurePath(words[0]).name.startswith(OURS) or words[0] == sys.executable):
        raise AssertionError(f"{words[0]} is started, so this is no unit test: mark it pytest.mark.process")


sys.addaudithook(_watch)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Refuse to start such a process in a unit test or its fixtures, whatever code asks for it."""
    if item.get_closest_marker("unit"):
        _watched.append(item.nodeid)
    try:
        return (yield)
    finally:
        _watched.clear()
