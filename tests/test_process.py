"""Processes: argv is data, the environment is chosen, nothing outlives its parent, no secret comes back.

To learn whether processes are gone, tests read a FIFO that they hold open: it ends when the last holder has died.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conche import process
from conche.errors import CheckFailed, Unreachable
from conche.process import Captured, Completed, ToolFailed, run

REPOSITORY = Path(__file__).parents[1]
CANARY = "canary-$5 value"
SIGNALS = [(signal.SIGHUP, 129), (signal.SIGINT, 130), (signal.SIGTERM, 143)]
words = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


def python(code: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", code, *arguments]


def sh(code: str, *arguments: str) -> list[str]:
    return ["sh", "-c", code, "sh", *arguments]


@dataclass(frozen=True)
class Holders:
    """A FIFO that processes hold open as descriptor 9, and its reading end."""

    path: Path
    descriptor: int

    def read(self) -> bytes:
        """Return what the holders have written, as soon as the last of them is gone."""
        os.set_blocking(self.descriptor, True)
        return b"".join(iter(lambda: os.read(self.descriptor, 4096), b""))

    def wait_until_held(self) -> None:
        """Wait until a holder has written its first line."""
        os.close(os.open(self.path, os.O_RDONLY))  # blocks until there is a writer
        os.set_blocking(self.descriptor, True)
        while os.read(self.descriptor, 1) != b"\n":
            pass


@contextlib.contextmanager
def holding(path: Path) -> Iterator[Holders]:
    os.mkfifo(path)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        yield Holders(path, descriptor)
    finally:
        os.close(descriptor)


@pytest.fixture
def holders(tmp_path: Path) -> Iterator[Holders]:
    with holding(tmp_path / "holders") as made:
        yield made


HOLD = 'exec 9>"$1"; sleep 600 & echo held >&9; echo held; wait'
HOLD_STUBBORNLY = """exec 9>"$1"; (trap '' TERM; exec sleep 600) & echo held >&9; echo held; wait"""
HOLD_ALONE = 'exec 9>"$1"; sleep 600 & echo held >&9'


@contextlib.contextmanager
def parent(code: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a Python process that uses `conche.process`; it is gone afterwards."""
    lines = "import sys\nfrom conche.process import *\nfrom conche.errors import Interrupted\n" + code
    with subprocess.Popen(python(lines, *arguments), cwd=REPOSITORY, stdout=subprocess.PIPE) as started:
        try:
            yield started
        finally:
            started.kill()


# What goes in and what comes out


@settings(max_examples=40, deadline=None)
@given(arguments=st.lists(words, max_size=4))
def test_arguments_arrive_as_they_are(arguments: list[str]) -> None:
    expected = "".join(f"{argument}\0" for argument in [*arguments, "end"])

    assert run(["printf", "%s\\0", *arguments, "end"]).stdout.raw == expected


@pytest.mark.process
@pytest.mark.parametrize(
    "argument", ["two words", "'single' \"double\"", "$HOME `id` $(id)", "; rm x", "*", "-n", "\\"]
)
def test_nothing_in_an_argument_means_anything(argument: str) -> None:
    assert run(python("import sys; print(*sys.argv[1:], sep='|')", argument, "")).stdout.raw == f"{argument}|\n"


@pytest.mark.parametrize("by_line", [False, True])
def test_a_megabyte_goes_through_both_streams(by_line: bool) -> None:
    content = b"0123456789abcde\n" * 65536
    lines: list[Captured] = []

    completed = run(sh("tee /dev/stderr"), stdin=content, on_line=lines.append if by_line else None)

    assert (completed.stdout.raw.encode(), completed.stderr.raw.encode()) == (content, content)
    assert len(lines) == (2 * 65536 if by_line else 0)


@pytest.mark.parametrize("by_line", [False, True])
def test_a_child_need_not_read_what_it_is_given(by_line: bool) -> None:
    assert run(["true"], stdin=b"x" * 1_000_000, on_line=print if by_line else None).exit_code == 0


def test_input_that_cannot_be_read_to_its_end_is_no_success_of_the_program_that_takes_it() -> None:
    def blocks() -> Iterator[bytes]:
        yield b"the first half"
        raise CheckFailed("archive-refused", "it is cut off")

    with pytest.raises(CheckFailed, match="cut off"):
        run(["cat"], stdin=blocks())


def test_bytes_that_are_no_text_are_shown_as_such() -> None:
    assert run(sh("printf 'a\\377b'")).stdout.raw == "a\ufffdb"


@pytest.mark.parametrize(
    ("code", "exit_code", "ok"), [("exit 0", 0, True), ("exit 7", 7, False), ("kill -9 $$", -9, False)]
)
def test_the_exit_code_is_the_programs_own(code: str, exit_code: int, ok: bool) -> None:
    completed = run(sh(code))

    assert (completed.argv, completed.exit_code, completed.ok) == (tuple(sh(code)), exit_code, ok)


def test_a_program_runs_where_it_is_told_to(tmp_path: Path) -> None:
    assert run(["pwd"], cwd=tmp_path).stdout.raw == f"{tmp_path}\n"


def test_a_failure_is_told_in_the_tools_own_words() -> None:
    with pytest.raises(ToolFailed) as caught:
        run(sh("echo out; echo first >&2; echo last >&2; exit 3")).require("building")

    assert (caught.value.message, caught.value.evidence, caught.value.status) == (
        "building failed: sh exited with 3.",
        ("first", "last"),
        9,
    )


@pytest.mark.parametrize(
    ("stdout", "stderr", "lines"),
    [("a\nb\nc\n", "", ("b", "c")), ("a\n", "x\ny\nz", ("y", "z")), ("a", " \n", ("a",)), ("", "", ())],
)
def test_the_last_lines_are_those_of_stderr_if_there_are_any(stdout: str, stderr: str, lines: tuple[str, ...]) -> None:
    assert Completed(("x",), 1, Captured(stdout), Captured(stderr)).last_lines(2) == lines


def test_success_is_handed_on() -> None:
    completed = run(["true"])

    assert completed.require("anything") is completed


# Line by line


def test_lines_come_while_the_program_is_still_running(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "gate")
    gate = os.open(tmp_path / "gate", os.O_RDWR)
    lines: list[str] = []

    def answer(line: Captured) -> None:
        lines.append(line.raw)
        os.write(gate, b"go\n")

    completed = run(sh('echo ready; read -r word <"$1"; printf "got $word"', str(tmp_path / "gate")), on_line=answer)
    os.close(gate)

    assert (lines, completed.stdout.raw) == (["ready", "got go"], "ready\ngot go")


def test_what_on_line_raises_ends_the_program_and_reaches_the_caller(holders: Holders) -> None:
    def leave(line: Captured) -> None:
        raise BrokenPipeError(line.raw)

    with pytest.raises(BrokenPipeError, match="held"):
        run(sh(HOLD, str(holders.path)), on_line=leave)

    assert holders.read() == b"held\n"


# The end


def test_a_timeout_ends_the_grandchildren_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Willing and stubborn ones, and one that holds the streams of a child that has ended; all wait at once."""
    monkeypatch.setattr(process, "GRACE", 0.2)
    cases = [(code, on_line) for code in (HOLD, HOLD_STUBBORNLY, HOLD_ALONE) for on_line in (None, print)]

    def ended(number: int) -> bytes:
        code, on_line = cases[number]
        # A machine that has much else to do may need longer until the grandchild is there at all.
        for seconds in (1, 10, 100):
            with holding(tmp_path / f"{number} {seconds}") as holders:
                with pytest.raises(Unreachable, match=rf"sh timed out after {seconds} s\.") as caught:
                    run(sh(code, str(holders.path)), timeout=seconds, on_line=on_line)
                assert (caught.value.code, caught.value.status) == ("tool-timed-out", 9)
                said = holders.read()
            if said:
                break
        return said

    with ThreadPoolExecutor(len(cases)) as threads:
        assert [*threads.map(ended, range(len(cases)))] == [b"held\n"] * len(cases)


def test_a_program_that_closes_its_streams_does_not_outrun_the_timeout() -> None:
    with pytest.raises(Unreachable, match="timed out after 1 s"):
        run(sh("exec >&- 2>&-; exec sleep 600"), timeout=1)


def test_a_child_that_is_ended_has_time_to_tidy_up(holders: Holders) -> None:
    code = """exec 9>"$1"; trap 'kill $!; echo tidied >&9; exit' TERM; sleep 600 & echo held >&9; echo held; wait"""

    def leave(line: Captured) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(sh(code, str(holders.path)), on_line=leave)

    assert holders.read() == b"held\ntidied\n"


@pytest.mark.parametrize(
    ("program", "reason"), [("absent", "is not installed"), ("not-executable", "cannot be run: no execute permission")]
)
def test_a_program_that_cannot_be_started_is_named_with_what_to_do(program: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "not-executable").touch(mode=0o644)

    with pytest.raises(Unreachable) as caught:
        run([str(tmp_path / program), "argument"])

    assert caught.value.message == f"{tmp_path / program} {reason}."
    assert (caught.value.code, caught.value.status, caught.value.next_command) == ("tool-missing", 9, "invoke doctor")


@pytest.mark.process
@pytest.mark.parametrize(("number", "status"), SIGNALS)
def test_a_signal_to_the_parent_ends_the_childs_whole_group(
    number: signal.Signals, status: int, holders: Holders
) -> None:
    code = """
try:
    with signals_raise():
        run(["sh", "-c", *sys.argv[1:]])
except Interrupted as error:
    sys.exit(error.status)
"""
    with parent(code, HOLD, "sh", str(holders.path)) as started:
        holders.wait_until_held()
        started.send_signal(number)

        assert (holders.read(), started.wait()) == (b"", status)


@pytest.mark.process
@pytest.mark.parametrize(("outlives", "rest"), [("", b""), ("yes", b"survived\n")])
def test_a_killed_parent_takes_its_child_along_unless_that_must_end_its_work(
    outlives: str, rest: bytes, holders: Holders, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    opened = os.open(gate, os.O_RDWR)
    child = 'exec 9>"$1"; echo held >&9; read -r word <"$2"; echo survived >&9'
    with parent(
        "run(['sh', '-c', *sys.argv[2:]], outlives=bool(sys.argv[1]))",
        outlives,
        *sh(child)[2:],
        *map(str, (holders.path, gate)),
    ) as started:
        holders.wait_until_held()
        started.kill()
        started.wait()
        os.write(opened, b"go\n")

        assert holders.read() == rest
    os.close(opened)


# Becoming another program


@pytest.mark.process
def test_a_replacement_has_the_same_process_id_and_a_chosen_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPOSE_FILE", "x")
    code = """replace(["sh", "-c", 'echo "$$ $COMPOSE_FILE $TAG $1"', "sh", "a  b"], {"TAG": "t"})"""
    with parent(code) as started:
        out, _ = started.communicate()

    assert out.decode() == f"{started.pid}  t a  b\n"


def test_a_missing_replacement_is_told_like_any_missing_program() -> None:
    with pytest.raises(Unreachable, match="no-such-tool-here is not installed"):
        process.replace(["no-such-tool-here"])


@pytest.mark.process
@pytest.mark.parametrize("call", ["run(['true'], extra_env=long)", "replace(['true'], long)"])
def test_an_environment_longer_than_the_kernel_takes_is_told_without_its_content(call: str) -> None:
    names = "from conche.errors import Refused\nfrom conche.process import *\nlong = {'LONG': 'canary' * 40_000}\n"
    code = f"{names}try:\n    {call}\nexcept Refused as error:\n    print(error.code, error)"
    argv = [sys.executable, "-c", code]

    done = subprocess.run(argv, cwd=REPOSITORY, capture_output=True, text=True, check=False)

    assert done.stdout.startswith("environment-too-long true cannot be started"), done.stderr
    assert "canary" not in done.stdout + done.stderr


def test_a_folder_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unreachable) as told:
        run(["true"], cwd=tmp_path / "gone")

    assert told.value.code == "tool-not-started"
    assert str(tmp_path / "gone") in told.value.message


@pytest.mark.process
def test_a_system_that_starts_no_more_programs_is_told_as_such() -> None:
    code = """
import resource
from conche.errors import Unreachable
from conche.process import run
run(["true"])
held = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (5, held[1]))
try:
    run(["true"])
except Unreachable as error:
    resource.setrlimit(resource.RLIMIT_NOFILE, held)
    print(error.code, error.message)
"""
    argv = [sys.executable, "-c", code]

    done = subprocess.run(argv, cwd=REPOSITORY, capture_output=True, text=True, check=False)

    assert done.stdout == "tool-not-started true cannot be started: Too many open files.\n", done.stderr
