"""A server that runs tasks in forked children and faults the k-th durable operation of each.

A durable operation is one that changes a name or puts something on disk: they are counted where Python asks the
system for them, so nothing in the toolkit knows of it. One line of JSON in, one line out; imports are paid for once.
"""

from __future__ import annotations

import errno
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from invoke.main import program

CREATING = ("mkdir", "open", "link", "symlink", "fsync", "write")
OTHERS = ("replace", "rename", "unlink", "remove", "rmdir", "ftruncate")


IMPORTED = [
    f"conche.{name}"
    for name in (
        "secrets.keys",
        *(f"backup.{one}" for one in ("create", "cron", "logfile", "prune", "restore", "verify")),
    )
]


class Shim:
    """Counts, and faults the k-th operation: kill before it, kill after it, or an error of the system."""

    def __init__(self, at: int, fault: str) -> None:
        self.at, self.fault, self.count = at, fault, 0
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
                self.count += 1
                mine = self.count
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
        files = sys.modules["conche.files"]
        files.exchange = self.wrap("exchange", files.exchange)  # type: ignore[attr-defined]
        sys.modules["conche.backup.exchange"].exchange = files.exchange  # type: ignore[attr-defined]
        subprocess.Popen.__init__ = self.wrap("process", subprocess.Popen.__init__)  # type: ignore[method-assign]


def child(order: dict[str, Any]) -> None:
    """Run one task; nothing comes back from here."""
    os.chdir(order["root"])
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdin, sys.stdout, sys.stderr = os.fdopen(0, "r"), os.fdopen(1, "w"), os.fdopen(2, "w")
    shim = Shim(order["at"], order["fault"])
    code = 70
    try:
        shim.install()
        sys.argv = ["invoke", *order["words"]]
        program.run(sys.argv)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:  # noqa: BLE001 - whatever it is, the test wants to see it
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        if order["count"]:
            Path(order["count"]).write_text(str(shim.count))
        os._exit(code)


def main() -> None:
    for name in IMPORTED:
        importlib.import_module(name)
    for line in sys.stdin:
        order = json.loads(line)
        number = os.fork()
        if number == 0:
            child(order)
        _, status = os.waitpid(number, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
