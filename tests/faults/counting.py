"""Faults the k-th durable operation of a task, in a child of the warm process.

A durable operation is one that changes a name or puts something on disk: they are counted where Python asks the
system for them, so nothing in the toolkit knows of it.
"""

from __future__ import annotations

import atexit
import errno
import json
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

CREATING = ("mkdir", "open", "link", "symlink", "fsync", "write")
OTHERS = ("replace", "rename", "unlink", "remove", "rmdir", "ftruncate")


class Shim:
    """Counts, and faults the k-th operation: kill before it, kill after it, or an error of the system."""

    def __init__(self, at: int, fault: str) -> None:
        self.at, self.fault = at, fault
        self.names: list[str] = []
        # Some operations come from several threads at once, and some from a handler of a signal in the midst of this.
        self.lock = threading.RLock()

    def wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*words: Any, **options: Any) -> Any:
            if name == "open" and not (len(words) > 1 and isinstance(words[1], int) and words[1] & os.O_CREAT):
                return function(*words, **options)
            if name == "write" and words[0] in (1, 2):
                return function(*words, **options)
            if self.fault == "no-links" and name == "link":
                raise OSError(errno.EPERM, os.strerror(errno.EPERM), str(words[0]))
            with self.lock:
                self.names.append(name)
                mine = len(self.names)
            number = getattr(errno, self.fault, None) if name != "process" else None
            full = self.fault in ("ENOSPC", "EDQUOT", "EROFS")
            if number and (mine == self.at or (full and mine > self.at and name in CREATING)):
                raise OSError(number, os.strerror(number), str(words[0]))
            if mine == self.at and self.fault == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            if mine == self.at and self.fault.startswith("SIG"):
                os.kill(os.getpid(), getattr(signal, self.fault))
            try:
                return function(*words, **options)
            finally:
                if mine == self.at and self.fault == "after":
                    os.kill(os.getpid(), signal.SIGKILL)

        return counted

    def install(self) -> None:
        for name in (*CREATING, *OTHERS):
            setattr(os, name, self.wrap(name, getattr(os, name)))
        syscalls = sys.modules["conche.syscalls"]
        syscalls.exchange = self.wrap("exchange", syscalls.exchange)  # type: ignore[attr-defined]
        sys.modules["conche.backup.exchange"].exchange = syscalls.exchange  # type: ignore[attr-defined]
        subprocess.Popen.__init__ = self.wrap("process", subprocess.Popen.__init__)  # type: ignore[method-assign]


def believe_copies() -> None:
    """Take a copied file for the one that it was copied from, and what was just written for something past."""
    sight = sys.modules["conche.backup.sight"]

    def told_of(name: str, seen: os.stat_result) -> bytes:
        return repr((name, seen.st_mode, seen.st_mtime_ns, stat.S_ISREG(seen.st_mode) and seen.st_size)).encode()

    sight.PAST = 0  # type: ignore[attr-defined]
    for module in ("sight", "entries", "unchanged"):
        sys.modules[f"conche.backup.{module}"].told_of = told_of  # type: ignore[attr-defined]


def install(told: dict[str, Any]) -> None:
    """Count from now on, and write down at the end which operations there were."""
    if told["copies"]:
        believe_copies()
    shim = Shim(told["at"], told["fault"])
    # The first that is registered here comes last, and what it writes is not counted.
    atexit.register(lambda: Path(told["operations"]).write_text(json.dumps(shim.names)))
    shim.install()
