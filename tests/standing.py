"""Hold a command at the point a test wants, for as long as the test wants, without timers.

The command is a child of the warm process. It stops before its first audit event of a given name that has certain
words in it: a request to the engine (`http.client.send`), a file that it opens (`open`), a program that it starts
(`subprocess.Popen`), or whatever else Python reports (sys.addaudithook).
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests import warm
from tests.stacks import SmallStack

__all__ = ["Standing", "standing"]


@dataclass(frozen=True)
class Standing:
    """A command that is held."""

    process: warm.Popen[str]
    line: int

    def go_on(self) -> tuple[int, str]:
        """Let the command go on to its end; return its exit code and its output."""
        os.write(self.line, b"!")
        _, said = self.process.communicate()
        return self.process.returncode, said

    def kill(self) -> None:
        """Kill the command where it stands, with SIGKILL."""
        self.process.kill()
        self.process.communicate()


@contextmanager
def standing(stack: SmallStack, *words: str, event: str, at: str, **extra: str) -> Iterator[Standing]:
    """Start a task that is held before the first event of that name with these words in it."""
    reached, theirs = os.pipe()
    mine, line = os.pipe()
    process = warm.Popen[str](
        stack.argv(*words), before="tests.standing:stand", told=[event, at, theirs, mine],
        cwd=stack.folder, env=stack.environment(**extra), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True, pass_fds=(theirs, mine),
    )  # fmt: skip
    os.close(theirs)
    os.close(mine)
    with process:
        try:
            assert os.read(reached, 1), f"{words} ended without: {process.communicate()[1]}"
            yield Standing(process, line)
        finally:
            os.close(reached)
            os.close(line)
            process.kill()


def stand(told: tuple[str, str, int, int]) -> None:
    """Run in the command: report when it gets there, and wait until the test says to go on, or is gone."""
    wanted, words, reached, line = told
    there = False

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal there
        if there or event != wanted or words not in _said(event, arguments):
            return
        there = True
        os.write(reached, b"!")
        os.read(line, 1)

    for one in (reached, line):
        os.set_inheritable(one, False)  # noqa: FBT003 - that is how it is called
    sys.addaudithook(hook)


def _said(event: str, arguments: tuple[Any, ...]) -> str:
    # A program's environment says nothing about what it does.
    told = arguments[:2] if event == "subprocess.Popen" else arguments
    return " ".join(one.decode(errors="replace") if isinstance(one, bytes) else str(one) for one in told)
