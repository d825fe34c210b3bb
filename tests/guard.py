"""Keeps unit tests what they are: a test that starts Conche or Docker's programs has to say so by a marker."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Sequence
from pathlib import PurePath

import pytest

OURS = ("docker", "dockerd", "invoke", "nox", "python", "ssh", "sops", "restic", "act")

_watched: list[str] = []


def _watch(event: str, arguments: Sequence[object]) -> None:
    if not _watched or event not in ("subprocess.Popen", "tests.warm.fork"):
        return
    executable = os.fsdecode(arguments[0]) if event == "subprocess.Popen" else sys.executable  # type: ignore[arg-type]
    if PurePath(executable).name.startswith(OURS) or executable == sys.executable:
        raise AssertionError(f"{executable} is started, so this is no unit test: mark it pytest.mark.process")


sys.addaudithook(_watch)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Refuse to start such a process in a unit test or its fixtures, whoever asks for it."""
    if item.get_closest_marker("unit"):
        _watched.append(item.nodeid)
    try:
        return (yield)
    finally:
        _watched.clear()
