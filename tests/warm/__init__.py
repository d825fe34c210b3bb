"""`python -m invoke …` without the second that Python needs to import everything.

`Popen` and `run` are used as those of `subprocess`. A command line of Invoke becomes a child that a server forks, which
has imported what the tasks need and has done nothing else: a process of its own, with the working folder, environment,
descriptors, umask, process group and signals that it would have had. Anything else is started as `subprocess` does it,
and so is a command line whose start would differ: where a variable is set that is only read when Python starts, or
where the working folder has modules that would stand before the installed ones.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any, AnyStr

__all__ = ["Popen", "Server", "run", "shared", "words_of"]

ROOT = Path(__file__).resolve().parents[2]

INVOKE = (sys.executable, "-m", "invoke")

AT_START = ("PYTHON", "LC_", "LANG", "LD_", "GLIBC_", "MALLOC_", "COVERAGE_", "OPENSSL_", "PYDANTIC_", "INVOKE_DEBUG")
"""Beginnings of the names of variables that Python, the C library and modules read once, when they begin."""

LARGEST = 100_000
"""Bytes of an order, which is one message of a socket."""

PLAIN = {
    "executable": None, "preexec_fn": None, "close_fds": True, "startupinfo": None, "creationflags": 0, "shell": False,
    "restore_signals": True, "gid": None, "gids": None, "uid": None, "process_group": -1,
}  # fmt: skip
"""Options of `subprocess.Popen` that the server does not know, where they ask for nothing."""

PARAMETERS = signature(vars(subprocess.Popen)["_execute_child"])


PIPES = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")


class Server:
    """One warm process; it is started for its first child, and ends with whoever started it.

    Args:
        prefix: argv of what is to start it, such as `unshare --mount`.

    Attributes:
        starts: the variables of its environment that are read once.
        idle: whether everything is to be a process of its own for now.
    """

    def __init__(self, prefix: Sequence[str] = ()) -> None:
        self._prefix = tuple(prefix)
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self.starts: dict[str, str] = {}
        self.idle = False

    def start(self) -> int:
        """Start it, if that is still to be done; its process id."""
        with self._lock:
            if self._process is None:
                environment = {**os.environ, "PYTHONPATH": str(ROOT)}
                self.starts = read_at_start(environment)
                self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                with theirs:
                    # A group of its own in our session: a Ctrl-C is for us and for the children.
                    argv = [*self._prefix, sys.executable, "-m", "tests.warm.server"]
                    self._process = subprocess.Popen(
                        argv, cwd=ROOT, env=environment, stdin=theirs.fileno(), process_group=0
                    )
            return self._process.pid

    def fork(self, order: bytes, descriptors: Sequence[int]) -> Child:
        """Have a child forked that carries out an order, with these for stdin, stdout, stderr, and those it names."""
        sys.audit("tests.warm.fork", order)
        self.start()
        assert self._control is not None
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                socket.send_fds(self._control, [order], [theirs.fileno(), *descriptors])
            content, received, _, _ = socket.recv_fds(ours, 100, 1, socket.MSG_CMSG_CLOEXEC)
            if not received:
                raise RuntimeError("the warm process is gone")
            return Child(int(content), received[0], ours)
        except BaseException:
            ours.close()
            raise

    def close(self) -> None:
        """End it. What it has forked goes on."""
        with self._lock:
            if self._process is not None and self._control is not None:
                self._control.close()
                self._process.wait()
            self._process = self._control = None


class Child:
    """A child of the server. As with our own, its number stays taken until somebody has waited for it."""

    def __init__(self, pid: int, descriptor: int, line: socket.socket) -> None:
        self.pid, self._descriptor, self._line = pid, descriptor, line

    def ended(self, *, wait: bool) -> int | None:
        """The status that waitpid(2) gives; None where it runs and is not waited for."""
        watched = select.poll()
        watched.register(self._descriptor, select.POLLIN)
        if not watched.poll(None if wait else 0):
            return None
        self._line.sendall(b"wait")
        status = int(self._line.recv(100) or b"-1")
        self._line.recv(1)  # until the server has closed its end, and so keeps nothing of this child
        self.close()
        if status < 0:
            raise RuntimeError(f"the warm process is gone, and with it how {self.pid} has ended")
        return status

    def close(self) -> None:
        """From now on nobody asks for it; the server clears it away when it ends."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._line.close()
            self._descriptor = -1


shared = Server()
"""That of this test process."""

atexit.register(shared.close)


class Popen(subprocess.Popen[AnyStr]):
    """`subprocess.Popen`, for which a command line of Invoke is cheap.

    Args:
        argv: what is to be started.
        before: module and function, as `module:function`, that is called in the forked child before Invoke begins; a
            command line that cannot be forked is then an error.
        told: what that function is given; JSON can say it.
        server: of which a child is made.
        options: of `subprocess.Popen`.
    """

    def __init__(
        self, argv: Sequence[str], *, before: str = "", told: Any = None, server: Server = shared, **options: Any
    ) -> None:
        self._server, self._before, self._told = server, before, told
        self._child: Child | None = None
        super().__init__(argv, **options)

    def _execute_child(self, *given: Any) -> None:
        options = PARAMETERS.bind(self, *given).arguments
        self._server.start()
        order = self._order(options)
        if order is not None:
            self._fork(order, options)
        elif self._before:
            raise ValueError("this cannot be forked from the warm process")
        else:
            super()._execute_child(*given)  # type: ignore[misc]

    def _fork(self, order: bytes, options: Mapping[str, Any]) -> None:
        ends = enumerate(options[name] for name in ("p2cread", "c2pwrite", "errwrite"))
        descriptors = [ours if end == -1 else end for ours, end in ends] + list(options["pass_fds"])
        try:
            self._child = self._server.fork(order, descriptors)
            self.pid = self._child.pid
            self._child_created = True
        finally:
            self._close_pipe_fds(*(options[name] for name in PIPES))  # type: ignore[attr-defined]

    def _order(self, options: Mapping[str, Any]) -> bytes | None:
        """What the server is told; None where a process has to be started."""
        cwd = Path(options["cwd"] or ".").absolute()
        environment = dict(os.environ if options["env"] is None else options["env"])
        plain = all(options[name] == value for name, value in PLAIN.items())
        words = None if isinstance(options["args"], str | bytes | os.PathLike) else words_of(options["args"])
        if self._server.idle or words is None or not plain or not can_be_forked(self._server.starts, environment, cwd):
            return None
        order = {
            "words": words, "cwd": str(cwd), "environment": environment, "descriptors": list(options["pass_fds"]),
            "umask": options["umask"] if options["umask"] >= 0 else current_umask(),
            "group": 0 if options["start_new_session"] else os.getpgrp(), "before": self._before, "told": self._told,
        }  # fmt: skip
        content = json.dumps(order).encode()
        return content if len(content) < LARGEST else None

    def _try_wait(self, flags: int) -> tuple[int, int]:
        if self._child is None:
            result: tuple[int, int] = super()._try_wait(flags)  # type: ignore[misc]
            return result
        status = self._child.ended(wait=not flags & os.WNOHANG)
        return (0, 0) if status is None else (self.pid, status)

    def _internal_poll(self, *given: Any, **options: Any) -> int | None:
        if getattr(self, "_child", None) is None:
            return super()._internal_poll(*given, **options)  # type: ignore[misc,no-any-return]
        if self.returncode is None and self._waitpid_lock.acquire(blocking=False):  # type: ignore[attr-defined]
            try:
                pid, status = (0, 0) if self.returncode is not None else self._try_wait(os.WNOHANG)
                if pid:
                    self._handle_exitstatus(status)  # type: ignore[attr-defined]
            finally:
                self._waitpid_lock.release()  # type: ignore[attr-defined]
        return self.returncode


def run(
    argv: Sequence[str],
    *,
    input: str | None = None,  # noqa: A002 - as subprocess calls it
    timeout: float | None = None,
    **options: Any,
) -> subprocess.CompletedProcess[str]:
    """`subprocess.run`, for which a command line of Invoke is cheap; its streams are text."""
    if input is not None:
        options["stdin"] = subprocess.PIPE
    if options.pop("capture_output", False):
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    check = options.pop("check", False)
    with Popen[str](argv, **{"text": True, **options}) as process:
        try:
            out, err = process.communicate(input, timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(process.args, process.returncode, out, err)
    if check:
        done.check_returncode()
    return done


def words_of(argv: Sequence[str]) -> list[str] | None:
    """What a command line tells Invoke; None of another one."""
    given = [os.fsdecode(word) for word in argv]
    return given[len(INVOKE) :] if tuple(given[: len(INVOKE)]) == INVOKE else None


def read_at_start(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that make the start of a process another one."""
    return {name: value for name, value in environment.items() if name.startswith(AT_START)}


def can_be_forked(starts: Mapping[str, str], environment: Mapping[str, str], cwd: Path) -> bool:
    """Whether a fork of a process that was started with those variables is what a start in this folder would give."""
    if not hasattr(os, "pidfd_open") or read_at_start(environment) != starts or not cwd.is_dir():
        return False
    # `python -m` imports from the working folder first.
    modules = {path for pattern in ("*.py", "*.so", "*/__init__.py") for path in cwd.glob(pattern)}
    return modules <= {cwd / "tasks.py"}


def current_umask() -> int:
    """Ours, without changing it for a moment as umask(2) has to."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("Umask:")).split()[1], 8)
