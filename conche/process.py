"""The only module that starts processes.

argv is data: a sequence of strings, never a shell line. A child gets an explicit environment, runs in a session of its
own, and does not outlive its parent: a signal to the parent ends the child's whole process group, and a parent that is
killed outright takes the child along (`PR_SET_PDEATHSIG`, prctl(2), through setpriv(1)).
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NoReturn

from conche.errors import ConcheError, Interrupted, Refused, Unreachable
from conche.secret import Captured, Redactor

__all__ = [
    "Captured",
    "Completed",
    "ToolFailed",
    "environment",
    "interact",
    "removed_at_death",
    "replace",
    "run",
    "signals_deferred",
    "signals_raise",
]

PASSED_ON = (
    "PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TERM", "NO_COLOR",
    "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "SSH_AUTH_SOCK", "SSL_CERT_FILE", "SSL_CERT_DIR",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
    "DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH", "DOCKER_API_VERSION",
)  # fmt: skip
"""Variables of our environment that a child gets; all others, above all `COMPOSE_*` and secrets, are withheld."""

MOST_KEPT = 1 << 20
"""Bytes kept of each stream of a process whose lines are shown as they come, since it may run for days."""

GRACE = 10.0
"""Seconds between SIGTERM and SIGKILL when ending a child."""


class ToolFailed(ConcheError):
    """A program failed with an exit code that its caller does not translate."""

    exit_code = 9


@dataclass(frozen=True)
class Completed:
    """A process that has ended, with its output.

    Attributes:
        argv: what was run.
        exit_code: 0 for success; a negative number is the signal that ended it.
    """

    argv: tuple[str, ...]
    exit_code: int
    stdout: Captured = field(repr=False)
    stderr: Captured = field(repr=False)

    @property
    def ok(self) -> bool:
        return self.exit_code == 0

    def last_lines(self, count: int = 15) -> tuple[str, ...]:
        """Return the last lines of its output, redacted: of stderr, or of stdout if stderr is empty."""
        said = self.stderr if self.stderr.raw.strip() else self.stdout
        return tuple(str(said).strip().splitlines()[-count:])

    def require(self, what: str) -> Completed:
        """Return this process if it succeeded, else raise `ToolFailed` saying that `what` failed, with its output."""
        if self.ok:
            return self
        raise ToolFailed(
            "tool-failed",
            f"{what} failed: {self.argv[0]} exited with {self.exit_code}.",
            evidence=self.last_lines(),
        )


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of a child: the names of `PASSED_ON`, locale variables, and `extra`."""
    passed = {name: value for name, value in os.environ.items() if name in PASSED_ON or name.startswith("LC_")}
    return {**passed, **(extra or {})}


def run(  # noqa: PLR0913 - the one spawner, and every option is named
    argv: Sequence[str],
    *,
    stdin: bytes | Iterable[bytes] = b"",
    extra_env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float | None = None,
    redact: Redactor | None = None,
    on_line: Callable[[Captured], None] | None = None,
    outlives: bool = False,
    keep_open: Sequence[int] = (),
    exact: bool = False,
) -> Completed:
    """Run a program to its end.

    Args:
        argv: the program and its arguments; never a secret.
        stdin: its input; in blocks if it may not fit in memory. What is raised while they are made is raised here,
            whatever the program made of the blocks before.
        extra_env: variables in addition to the allow-list.
        timeout: seconds after which the program is ended and `Unreachable` is raised.
        redact: applied to its output wherever that is shown.
        on_line: called with each line, of both streams, as it comes.
        outlives: keep it running if the parent is killed outright, because leaving its work half done would be worse.
        keep_open: further descriptors for the child, such as a lock to hold as long as it lives.
        exact: preserve every byte of stdout for `os.fsencode`, because it will be written back somewhere.

    Raises:
        Unreachable: the program is not installed, or did not end in time.
    """
    child: subprocess.Popen[bytes] | None = None
    readers: Sequence[threading.Thread] = ()
    problems: list[BaseException] = []
    kept, begun = (bytearray(), bytearray()), time.monotonic()
    try:
        # A signal between starting the child and knowing it would leave it behind.
        with signals_deferred():
            child = _start(argv, extra_env, cwd, outlives, keep_open)
            said, readers = _listen(child, stdin, problems, by_line=on_line is not None)
        for number, part in _parts(said, timeout):
            kept[number].extend(part)
            if on_line is not None and len(kept[number]) > 2 * MOST_KEPT:
                del kept[number][:-MOST_KEPT]
            if on_line is not None:
                on_line(Captured(_text(part).rstrip("\n"), redact))
        # A child that has closed its streams may run on.
        child.wait(None if timeout is None else max(0.0, begun + timeout - time.monotonic()))
        if problems:
            raise problems[0]
    except BaseException as error:
        if child is not None:
            _end(child, readers)
        if isinstance(error, queue.Empty | subprocess.TimeoutExpired):
            raise Unreachable(
                "tool-timed-out", f"{argv[0]} timed out after {timeout:g} s.", looked_at=[" ".join(argv)]
            ) from None
        raise
    text = os.fsdecode(bytes(kept[0])) if exact else _text(kept[0])
    return Completed(tuple(argv), child.returncode, Captured(text, redact), Captured(_text(kept[1]), redact))


def interact(argv: Sequence[str]) -> int:
    """Run a program such as an editor on this terminal, with the user's whole environment; return its exit code."""
    program = shutil.which(argv[0])
    if program is None:
        raise _missing(argv[0], FileNotFoundError())
    # It dies with us, since nobody else would read its result, and it must not compete with a shell for the terminal.
    return subprocess.run([*_dying_with_parent(), program, *argv[1:]], check=False).returncode


@contextlib.contextmanager
def removed_at_death(folder: Path) -> Iterator[None]:
    """Within this block, have a child remove the folder as soon as we end, even by kill -9.

    It reads from a pipe whose other end only we hold, and runs in a session of its own, which neither the terminal's
    keys nor signals to our process group reach.
    """
    script = 'cat >/dev/null; rm -rf -- "$1" || { sleep 1; rm -rf -- "$1"; }'
    watcher = subprocess.Popen(
        ["/bin/sh", "-c", script, "sh", str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(),
        start_new_session=True,
    )
    assert watcher.stdin is not None
    try:
        yield
    finally:
        watcher.stdin.close()
        watcher.wait()


def replace(argv: Sequence[str], extra_env: Mapping[str, str] | None = None) -> NoReturn:
    """Become this program, with the same terminal and process id, so that signals and the exit code are its own."""
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execvpe(argv[0], list(argv), environment(extra_env))  # noqa: S606 - argv is data, no shell
    except (FileNotFoundError, PermissionError) as error:
        raise _missing(argv[0], error) from None
    except OSError as error:
        raise _not_started(argv[0], error) from None


@contextlib.contextmanager
def signals_raise() -> Iterator[None]:
    """Within this block, raise `Interrupted` in the main thread on the first SIGINT, SIGTERM or SIGHUP.

    Later ones are ignored while the command unwinds: an interrupted unwinding would leave things behind.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received = False

    def on_signal(number: int, _frame: object) -> None:
        nonlocal received
        if not received:
            received = True
            raise Interrupted(signal.Signals(number))

    with _handled_by(on_signal):
        yield


@contextlib.contextmanager
def signals_deferred() -> Iterator[None]:
    """Defer signals to the end of this block, for the few seconds in which stopping halfway is worse than finishing.

    The first one is then raised again: within `signals_raise` it interrupts, or is ignored if already unwinding.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[signal.Signals] = []
    with _handled_by(lambda number, _: received.append(signal.Signals(number))):
        yield
    if received:
        signal.raise_signal(received[0])


@contextlib.contextmanager
def _handled_by(handler: Callable[[int, object], None]) -> Iterator[None]:
    before = {name: signal.signal(name, handler) for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for name, previous in before.items():
            signal.signal(name, previous)


def _start(
    argv: Sequence[str],
    extra_env: Mapping[str, str] | None,
    cwd: Path | None,
    outlives: bool,
    keep_open: Sequence[int],
) -> subprocess.Popen[bytes]:
    program = shutil.which(argv[0])
    if program is None:
        there = os.sep in argv[0] and Path(argv[0]).exists()
        raise _missing(
            argv[0], PermissionError(errno.EACCES, "no execute permission") if there else FileNotFoundError()
        )
    try:
        return subprocess.Popen(
            [*([] if outlives else _dying_with_parent()), program, *argv[1:]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(extra_env),
            cwd=cwd,
            start_new_session=True,
            pass_fds=tuple(keep_open),
        )
    except OSError as error:
        raise _not_started(argv[0], error, cwd) from None


@functools.cache
def _dying_with_parent() -> tuple[str, ...]:
    """Return an argv prefix that requests SIGTERM when the parent dies; empty without Linux and util-linux.

    A `preexec_fn` could request it too, but deadlocks if another thread holds a lock at the moment of the fork.
    """
    setpriv = shutil.which("setpriv") if sys.platform == "linux" else None
    return (setpriv, "--pdeathsig", "TERM", "--") if setpriv else ()


def _not_started(program: str, error: OSError, cwd: Path | None = None) -> ConcheError:
    """Translate the system's refusal to start a program."""
    if error.errno == errno.E2BIG:
        return Refused(
            "environment-too-long",
            f"{program} cannot be started: its environment is longer than the kernel allows.",
            looked_at=["128 KiB for one variable; for all of them together a quarter of `ulimit -s` (execve(2))"],
            next_command="give long secrets `outputs: [file]` in stack.yaml\nenv | wc -c",
        )
    where = f" in {cwd}" if cwd is not None and str(error.filename) == str(cwd) else ""
    return Unreachable(
        "tool-not-started",
        f"{program} cannot be started{where}: {error.strerror}.",
        looked_at=["this user's limits on processes and open files, and free memory"],
        next_command="ulimit -a\nfree -h",
    )


def _missing(program: str, error: OSError) -> Unreachable:
    why = "is not installed" if isinstance(error, FileNotFoundError) else f"cannot be run: {error.strerror}"
    return Unreachable(
        "tool-missing",
        f"{program} {why}.",
        looked_at=[f"PATH={os.environ.get('PATH', '')}"],
        next_command="invoke doctor",
    )


_Said = queue.SimpleQueue[tuple[int, bytes]]
"""Parts with the number of their stream, 0 for stdout and 1 for stderr; an empty part marks the stream's end."""

_BLOCK = 1 << 16


def _listen(
    child: subprocess.Popen[bytes], stdin: bytes | Iterable[bytes], problems: list[BaseException], *, by_line: bool
) -> tuple[_Said, list[threading.Thread]]:
    """Feed the child and collect its output, each stream in a thread of its own, which also closes it.

    Args:
        problems: is given why there is less input than there should be, before the child can see that it ends.
    """
    said: _Said = queue.SimpleQueue()

    def read(number: int, stream: IO[bytes]) -> None:
        with stream:
            for part in stream if by_line else iter(lambda: os.read(stream.fileno(), _BLOCK), b""):
                said.put((number, part))
        said.put((number, b""))

    def feed(stream: IO[bytes]) -> None:
        # If the child does not read all its input, the write, or the close that flushes it, raises BrokenPipeError.
        with contextlib.suppress(BrokenPipeError), stream:
            try:
                for block in [stdin] if isinstance(stdin, bytes) else stdin:
                    stream.write(block)
            except BrokenPipeError:
                raise
            except BaseException as error:  # noqa: BLE001 - raised by `run`: this is a thread of its own
                problems.append(error)

    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stderr is not None
    threading.Thread(target=feed, args=(child.stdin,), daemon=True).start()
    streams = (child.stdout, child.stderr)
    readers = [threading.Thread(target=read, args=pair, daemon=True) for pair in enumerate(streams)]
    for reader in readers:
        reader.start()
    return said, readers


def _parts(said: _Said, timeout: float | None) -> Iterator[tuple[int, bytes]]:
    """Yield lines or blocks until both streams have ended; raises `queue.Empty` if that takes longer than `timeout`."""
    deadline = None if timeout is None else time.monotonic() + timeout
    ended = 0
    while ended < 2:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        number, part = said.get(timeout=left)
        if part:
            yield number, part
        else:
            ended += 1


def _text(said: bytes | bytearray) -> str:
    return said.decode(errors="replace")


def _end(child: subprocess.Popen[bytes], readers: Sequence[threading.Thread]) -> None:
    """End the child and everything it started, after giving them `GRACE` seconds in total to end by themselves.

    The streams end with the last process that holds them, so there is no need to ask which processes are left.
    """
    deadline = time.monotonic() + GRACE
    _signal_group(child, signal.SIGTERM)
    for reader in readers:
        reader.join(max(0.0, deadline - time.monotonic()))
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(max(0.0, deadline - time.monotonic()))
    _signal_group(child, signal.SIGKILL)
    child.wait()


def _signal_group(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, number)
