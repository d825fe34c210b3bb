"""The warm process: its children behave like separately started processes."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import warm
from tests.stacks import ROOT
from tests.warm import can_be_forked, read_at_start

pytestmark = pytest.mark.process

TASKS = """\
import atexit, json, locale, os, pathlib, random, signal, subprocess, sys, tempfile, threading, time
from invoke import Collection, task

@task
def facts(context, word=""):
    fields = dict(line.split(":", 1) for line in open("/proc/self/status"))
    opened = {name: os.stat(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd") if name.isdigit()
              and os.path.exists(f"/proc/self/fd/{name}")}
    streams = [
        [stream.name, stream.mode, stream.encoding, stream.errors, stream.line_buffering, stream.newlines,
         stream.isatty(), type(stream.buffer).__name__, stream.fileno()]
        for stream in (sys.stdin, sys.stdout, sys.stderr)
    ]
    print(json.dumps({
        "word": word, "cwd": os.getcwd(), "environment": dict(os.environ), "argv": sys.argv, "path": sys.path,
        "here": __file__, "main": sys.modules["__main__"].__file__,
        "signals": [fields[name].strip() for name in ("SigBlk", "SigIgn", "SigCgt")], "umask": fields["Umask"].strip(),
        "descriptors": {name: [one.st_dev, one.st_ino] for name, one in opened.items()},
        "session": os.getsid(0) == os.getpid(), "group": os.getpgrp() == os.getpid() or os.getpgrp(),
        "streams": streams, "zone": [*time.tzname, time.timezone], "temporary": tempfile.gettempdir(),
        "threads": threading.active_count(), "locale": locale.setlocale(locale.LC_CTYPE), "said": sys.stdin.read(),
        "flags": list(sys.flags), "executable": sys.executable, "inherited": sorted(subprocess.check_output(
            ["sh", "-c", "ls /proc/$$/fd"], close_fds=False, text=True).split()),
    }))

@task
def end(context, how):
    atexit.register(print, "at exit")
    threading.Thread(target=lambda: (time.sleep(0.2), print("thread"))).start()
    print("begun")
    if how == "text": sys.exit("in words")
    if how == "none": sys.exit(None)
    if how == "number": sys.exit(300)
    if how == "interrupted": raise KeyboardInterrupt
    if how == "wrong": raise ValueError("wrong")
    if how == "killed": os.kill(os.getpid(), signal.SIGKILL)
    if how == "closed": os.close(1)

@task
def chance(context):
    print(random.random())

@task
def lock(context):
    import fcntl
    held = open("lock", "w")
    fcntl.flock(held, fcntl.LOCK_EX)
    print("held", flush=True)
    signal.pause()

ns = Collection(facts, end, chance, lock)
"""

INVOKE = (sys.executable, "-m", "invoke")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a folder with tasks that describe the process they run in."""
    (tmp_path / "tasks.py").write_text(TASKS)
    return tmp_path


def environment(**extra: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), **extra}


def both(argv: tuple[str, ...], **options: Any) -> list[subprocess.Popen[str]]:
    """Start a separate process and a forked one from the same call."""
    made = [subprocess.Popen(argv, text=True, **options), warm.Popen[str](argv, text=True, **options)]
    assert forked(made[1])
    return made


def forked(process: subprocess.Popen[str]) -> bool:
    parent = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[1]
    return int(parent) == warm.shared.start()


def held() -> list[Path]:
    """Return the descriptors of the server."""
    return sorted(Path(f"/proc/{warm.shared.start()}/fd").iterdir())


def pieces(terminal: int) -> Iterator[bytes]:
    """Yield what is written to a terminal until nobody has it open; one read returns at most 4 KiB."""
    with contextlib.suppress(OSError):
        while piece := os.read(terminal, 1 << 16):
            yield piece


def finish(process: subprocess.Popen[str], said: str | None = None) -> tuple[int, str, str]:
    with process:
        out, err = process.communicate(said, timeout=300)
    return process.returncode, out, err


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"umask": 0o077},
        {"start_new_session": True},
        {"stderr": subprocess.STDOUT},
        {"env": environment(TZ="Asia/Tokyo", TMPDIR="/var/tmp", EXTRA="\udcff", LINES="7")},
    ],
    ids=["plain", "umask", "session", "one stream", "environment"],
)
def test_a_forked_task_finds_what_it_would_find_in_a_process_of_its_own(folder: Path, options: dict[str, Any]) -> None:
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    given = {"cwd": folder, "env": environment(), **pipes, **options}
    ended = [finish(one, "some\nlines") for one in both((*INVOKE, "facts", "--word", "wörd"), **given)]

    assert [code for code, _, _ in ended] == [0, 0], ended
    facts = [json.loads(out) for _, out, _ in ended]
    # Each process has pipes of its own.
    descriptors = [fact.pop("descriptors") for fact in facts]
    assert facts[0] == facts[1]
    assert descriptors[0].keys() == descriptors[1].keys()


def test_a_forked_task_has_the_descriptors_that_are_passed_and_no_others(folder: Path, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)  # noqa: FBT003
    with (tmp_path / "out").open("w+") as out, (tmp_path / "other").open("w") as other:
        given = {
            "cwd": folder,
            "env": environment(),
            "stdin": subprocess.DEVNULL,
            "pass_fds": [writing, other.fileno()],
        }
        for process in both((*INVOKE, "facts"), stdout=out, **given):
            assert finish(process)[0] == 0
        out.seek(0)
        facts = [json.loads(line) for line in out]
    os.close(reading)
    os.close(writing)

    assert facts[0] == facts[1]


def test_a_forked_task_can_sit_at_a_terminal(folder: Path) -> None:
    said = []
    for start in (subprocess.Popen[str], warm.Popen[str]):
        ours, theirs = pty.openpty()
        process = start(
            (*INVOKE, "facts"), cwd=folder, env=environment(), stdin=theirs, stdout=theirs, stderr=theirs, text=True
        )  # fmt: skip
        os.write(ours, b"typed\n\x04")
        os.close(theirs)
        said.append(b"".join(pieces(ours)).decode().partition("{")[2])
        process.wait(300)
        os.close(ours)

    facts = [json.loads("{" + text) for text in said]
    assert facts[0]["streams"][1][6]
    for fact in facts:
        fact.pop("descriptors")
    assert facts[0] == facts[1]


@pytest.mark.parametrize("how", ["", "text", "none", "number", "interrupted", "wrong", "killed", "closed"])
def test_a_forked_task_ends_as_a_process_of_its_own(folder: Path, how: str) -> None:
    streams = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE)
    made = both((*INVOKE, "end", f"--how={how}"), cwd=folder, env=environment(), stdin=subprocess.DEVNULL, **streams)
    ended = [finish(process) for process in made]

    (code, out, err), (code_too, out_too, err_too) = ended
    assert (code, out) == (code_too, out_too)
    # Their tracebacks have different frames.
    assert err.splitlines()[-1:] == err_too.splitlines()[-1:]
    assert len(err_too.splitlines()) >= len(err.splitlines())


def test_each_forked_task_has_chances_of_its_own(folder: Path) -> None:
    said = {warm.run((*INVOKE, "chance"), cwd=folder, env=environment(), capture_output=True).stdout for _ in range(3)}

    assert len(said) == 3


def test_a_killed_task_lets_go_of_what_it_held_and_stays_a_zombie_until_it_is_waited_for(folder: Path) -> None:
    given: dict[str, Any] = {"cwd": folder, "env": environment(), "text": True, "stdout": subprocess.PIPE}
    first, second = (warm.Popen[str]((*INVOKE, "lock"), **given) for _ in range(2))
    assert first.stdout is not None
    assert second.stdout is not None
    said, _, _ = select.select([first.stdout, second.stdout], [], [])
    holder, other = (first, second) if first.stdout in said else (second, first)
    assert holder.poll() is None
    gone = os.pidfd_open(holder.pid)

    holder.kill()

    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    # The kernel closes what a process held before it is a zombie, which is when a descriptor of it becomes readable.
    select.select([gone], [], [])
    os.close(gone)
    state = Path(f"/proc/{holder.pid}/stat").read_text().rpartition(")")[2].split()[0]
    assert (state, holder.wait(), holder.wait(), holder.poll()) == (
        "Z",
        -signal.SIGKILL,
        -signal.SIGKILL,
        -signal.SIGKILL,
    )
    assert not Path(f"/proc/{holder.pid}").exists()
    other.terminate()
    assert finish(holder)[0] == -signal.SIGKILL
    assert finish(other)[0] == -signal.SIGTERM


def test_a_time_limit_kills_it(folder: Path) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        warm.run((*INVOKE, "lock"), cwd=folder, env=environment(), capture_output=True, timeout=1)


def test_many_threads_may_start_tasks_and_the_server_keeps_nothing_of_them(folder: Path) -> None:
    warm.run((*INVOKE, "chance"), cwd=folder, env=environment(), capture_output=True)
    before = held()
    ended: list[tuple[int, str, str]] = []

    def start(number: int) -> None:
        argv = (*INVOKE, "end", f"--how={'' if number % 2 else 'number'}")
        streams: dict[str, Any] = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE)
        ended.append(finish(warm.Popen[str](argv, cwd=folder, env=environment(), text=True, **streams)))

    threads = [threading.Thread(target=start, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(code for code, _, _ in ended) == [0] * 4 + [300 & 0xFF] * 4
    assert {out for _, out, _ in ended} == {"begun\nthread\nat exit\n"}
    assert held() == before


@pytest.fixture
def own(folder: Path) -> Callable[..., bool]:
    """Return a function that says whether a call gets a process of its own."""

    def started(**options: Any) -> bool:
        given = {"cwd": folder, "env": environment(), "stdout": subprocess.DEVNULL, **options}
        argv = given.pop("argv", (*INVOKE, "chance"))
        process = warm.Popen[str](argv, text=True, **given)
        told = not forked(process)
        assert finish(process)[0] == 0
        return told

    return started


def test_what_is_read_when_python_starts_takes_a_process_of_its_own(own: Callable[..., bool], folder: Path) -> None:
    assert not own()
    assert own(env=environment(LC_ALL="C"))
    assert own(env=environment(PYTHONPATH=os.pathsep.join((str(folder), str(ROOT)))))
    assert own(env=environment(PYTHONWARNINGS="ignore"))
    assert own(env=environment(LD_PRELOAD=""))
    assert own(argv=[sys.executable, "-c", "pass"])
    assert own(argv=["nice", *INVOKE, "chance"])
    assert own(preexec_fn=os.getpid)
    (folder / "conche").mkdir()
    assert not own()
    (folder / "conche/__init__.py").touch()
    assert own()


def test_a_folder_with_modules_and_one_that_is_not_there_are_not_forked_in(tmp_path: Path) -> None:
    starts = read_at_start(environment())

    assert can_be_forked(starts, environment(), tmp_path)
    assert not can_be_forked(starts, environment(), tmp_path / "nowhere")
    (tmp_path / "json.py").touch()
    assert not can_be_forked(starts, environment(), tmp_path)
    with pytest.raises(FileNotFoundError):
        warm.run((*INVOKE, "chance"), cwd=tmp_path / "nowhere", env=environment())


def test_the_server_ends_with_a_killed_parent() -> None:
    script = "import signal; from tests.warm import shared; print(shared.start(), flush=True); signal.pause()"
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        server = os.pidfd_open(int(parent.stdout.readline()))
        parent.kill()
    ended = select.poll()
    ended.register(server, select.POLLIN)

    assert ended.poll(300_000)
    os.close(server)


def test_a_child_that_nobody_waits_for_is_cleared_away(folder: Path) -> None:
    server = warm.Server()
    child = server.fork(order(folder, "lock"), [0, 1, 2])
    gone = os.pidfd_open(child.pid)
    child.close()
    before = server.fork(order(folder, "chance"), [0, 1, 2]).ended(wait=True)
    ran = Path(f"/proc/{child.pid}").exists()

    os.kill(child.pid, signal.SIGKILL)
    select.select([gone], [], [])
    os.close(gone)
    # Whatever the server is asked next, it clears away first who has ended.
    after = server.fork(order(folder, "chance"), [0, 1, 2]).ended(wait=True)

    assert (before, ran, after) == (0, True, 0)
    assert not Path(f"/proc/{child.pid}").exists()
    server.close()


def order(folder: Path, *words: str) -> bytes:
    return json.dumps({
        "words": words, "cwd": str(folder), "environment": environment(), "descriptors": [], "umask": 0o022,
        "group": os.getpgrp(), "before": "", "told": None,
    }).encode()  # fmt: skip
