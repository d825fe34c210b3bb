"""Keep unit tests pure: a test that starts Conche or Docker's programs has to say so with a marker.

And keep what one that fails has left from those that come after it.
"""

from __future__ import annotations

import gc
import os
import sys
import warnings
from collections.abc import Generator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

import pytest

OURS = ("docker", "dockerd", "invoke", "nox", "python", "ssh", "restic")
"""How names begin of programs that are Conche or take long; tools that packages install, such as sops, may run."""

SHELLS = ("sh", "bash")

_watched: list[str] = []


def _watch(event: str, arguments: Sequence[Any]) -> None:
    if not _watched or event not in ("subprocess.Popen", "tests.warm.fork"):
        return
    argv, environment = (arguments[1], arguments[3]) if event == "subprocess.Popen" else ([sys.executable], None)
    words = [os.fsdecode(word) for word in (argv if isinstance(argv, list | tuple) else [argv])]
    # Conche starts programs that must end with it through setpriv(1).
    if words and PurePath(words[0]).name == "setpriv" and "--" in words:
        words = words[words.index("--") + 1 :]
    if words and (_is_ours(words[0]) or _hands_on(words, environment)):
        raise AssertionError(f"{words[0]} starts one of ours, so this is no unit test: mark it pytest.mark.process")


def _is_ours(program: str) -> bool:
    return PurePath(program).name.startswith(OURS) or program == sys.executable


def _hands_on(words: Sequence[str], environment: Mapping[Any, Any] | None) -> bool:
    """Return whether this is a shell that is given the Python of the tests, in its line or in a variable."""
    given = [*words[1:], *(os.fsdecode(value) for value in (environment or {}).values())]
    return PurePath(words[0]).name in SHELLS and any(sys.executable in one.split() for one in given)


sys.addaudithook(_watch)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Refuse to start such a process in a unit test or its fixtures, whatever code asks for it."""
    failed = item.session.testsfailed
    if item.get_closest_marker("unit"):
        _watched.append(item.nodeid)
    try:
        return (yield)
    finally:
        _watched.clear()
        if item.session.testsfailed > failed:
            _let_go()


def _let_go() -> None:
    """Collect here what a failed test has not closed or waited for: a warning of it would make the next one red."""
    for name in ("last_type", "last_value", "last_traceback", "last_exc"):
        if hasattr(sys, name):
            delattr(sys, name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
