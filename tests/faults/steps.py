"""What a child of the warm process does to its task: kill it at some step, or have it wait longer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import Any

from conche.vault import store


def kill_before(step: int) -> None:
    """From now on: kill this process before it takes that step."""
    seen = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        # Starts of programs, and what in the checkout gives a file its name, makes a folder, or removes one of them.
        if event not in ("subprocess.Popen", "os.rename", "os.remove", "os.mkdir"):
            return
        if event != "subprocess.Popen" and not os.fsdecode(arguments[0]).startswith(os.getcwd()):  # noqa: PTH109
            return
        seen += 1
        if seen == step:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def kill_after_start(words: str) -> None:
    """From now on: kill this process as soon as it has started a program whose argv contains these words."""
    start = subprocess.Popen.__init__

    def started(popen: subprocess.Popen[bytes], argv: list[str], **options: Any) -> None:
        start(popen, argv, **options)
        if words in " ".join(argv):
            os.kill(os.getpid(), signal.SIGKILL)

    subprocess.Popen.__init__ = started  # type: ignore[method-assign, assignment]


def wait_longer(seconds: float) -> None:
    """From now on: wait so long for another change of the secrets; of many at once the last waits for all others."""
    store.WAIT = seconds
