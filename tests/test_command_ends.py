"""How a task ends: exit codes, errors, signals, and pipes that nobody reads."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.test_command import REPOSITORY, folder, invoke, start

__all__ = ["folder", "invoke", "start"]


@pytest.mark.process
@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("CheckFailed", 1),
        ("Refused", 2),
        ("Partial", 3),
        ("Restored", 4),
        ("NotRestored", 5),
        ("NotFound", 6),
        ("Locked", 7),
        ("KeyUnusable", 8),
        ("Unreachable", 9),
    ],
)
def test_an_error_ends_with_its_exit_code_and_no_traceback(kind: str, status: int, invoke: Any) -> None:
    assert invoke("fail", kind) == (status, "", "error [it-failed]: It failed.\nNext: try again\n")


@pytest.mark.process
def test_an_error_is_one_json_document_too(invoke: Any) -> None:
    code, stdout, stderr = invoke("fail", "Locked", "--json")

    assert (code, json.loads(stdout)["error"]["exit_code"], "it-failed" in stderr) == (7, 7, True)


@pytest.mark.process
def test_a_bug_shows_its_traceback(invoke: Any) -> None:
    code, stdout, stderr = invoke("bug")

    assert (code, stdout) == (1, "")
    assert "Traceback (most recent call last)" in stderr
    assert "ZeroDivisionError: division by zero" in stderr


@pytest.mark.process
def test_a_check_that_finds_something_ends_with_1_after_its_answer(invoke: Any) -> None:
    assert invoke("check") == (1, "found something\n", "")
    code, stdout, _ = invoke("check", "--json")
    assert (code, json.loads(stdout)["value"]) == (1, "found")


@pytest.mark.process
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_ends_a_task_after_its_unwinding(number: signal.Signals, status: int, start: Any) -> None:
    process = start("wait")
    assert process.stdout.readline() == "waiting\n"

    process.send_signal(number)
    stdout, stderr = process.communicate()

    assert (process.returncode, stdout, stderr) == (
        status,
        "unwound\n",
        f"error [interrupted-by-signal]: Interrupted by {number.name}.\n",
    )


@pytest.mark.process
@pytest.mark.parametrize("how", ["table", "raw", "json"])
def test_a_reader_that_leaves_is_no_error(how: str, start: Any) -> None:
    process = start("much", how, *(["--json"] if how == "json" else []))
    process.stdout.readline()
    process.stdout.close()

    assert (process.stderr.read(), process.wait()) == ("", 141)


def shell(folder: Path, line: str, **extra: str) -> subprocess.CompletedProcess[bytes]:
    """Run a line of bash in which $invoke stands for the program that the tests call."""
    given = {**os.environ, "PYTHONPATH": str(REPOSITORY), "invoke": f"{sys.executable} -m invoke", **extra}
    return subprocess.run(["bash", "-c", line], cwd=folder, env=given, capture_output=True, check=False)


@pytest.mark.process
@pytest.mark.parametrize("options", ["", "--json"])
@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("$invoke work {} >/dev/full", b"warning: The answer could not be written to standard output: No space left"),
        ("set -o pipefail; $invoke work {} | true", b""),
        ("$invoke work {} >&-", b""),
        ("$invoke work {} >&- 2>&- <&-", b""),
    ],
)
def test_what_was_done_is_no_failure_where_the_answer_cannot_be_written(
    line: str, said: bytes, options: str, folder: Path
) -> None:
    (folder / "done").unlink(missing_ok=True)

    ended = shell(folder, line.format(options))

    assert (ended.returncode, (folder / "done").exists()) == (0, True)
    assert ended.stderr.startswith(said)
    assert (b"Traceback" in ended.stderr, b"Exception ignored" in ended.stderr) == (False, False)


@pytest.mark.process
@pytest.mark.parametrize("task", ["much table", "much raw", "much json --json", "much --json none", "tell-lines"])
def test_an_answer_that_was_all_there_was_to_do_and_is_lost_is_a_failure(task: str, folder: Path) -> None:
    ended = shell(folder, f"$invoke {task} >/dev/full")

    assert ended.returncode == 9
    assert ended.stderr.startswith(b"error [answer-not-written]: The answer could not be written")
    assert b"Traceback" not in ended.stderr


@pytest.mark.process
def test_a_stream_that_is_followed_ends_when_its_reader_leaves(folder: Path) -> None:
    ended = shell(folder, "$invoke tell-lines | head -1; exit ${PIPESTATUS[0]}")

    assert (ended.returncode, ended.stdout, ended.stderr) == (141, b"line 0\n", b"")


@pytest.mark.process
@pytest.mark.parametrize("line", ["$invoke fail Locked --json >/dev/full", "$invoke fail Locked 2>/dev/full"])
def test_an_error_keeps_its_exit_code_where_it_cannot_be_told(line: str, folder: Path) -> None:
    assert shell(folder, line).returncode == 7


@pytest.mark.process
def test_a_check_keeps_its_exit_code_where_it_cannot_be_told(folder: Path) -> None:
    assert shell(folder, "$invoke check >/dev/full").returncode == 1


@pytest.mark.process
def test_only_a_pipe_that_is_stdout_counts_as_a_reader_that_left(folder: Path) -> None:
    ended = shell(folder, "$invoke broken")

    assert ended.returncode == 1
    assert b"a pipe of the engine's" in ended.stderr


@pytest.mark.process
@pytest.mark.parametrize(
    ("encoding", "text"),
    [("iso8859-1", "20 °C - ok"), ("ascii", "20 ?C - ok"), ("cp1252", "20 °C — ok"), ("utf-8", "20 °C — ok")],
)
def test_what_a_terminal_lacks_is_replaced(encoding: str, text: str, folder: Path) -> None:
    ended = shell(folder, "$invoke work", PYTHONIOENCODING=encoding)

    assert (ended.returncode, ended.stderr) == (0, b"")
    assert text in ended.stdout.decode(encoding)


@pytest.mark.process
@pytest.mark.parametrize("encoding", ["iso8859-1", "ascii", "utf-8", "utf-16"])
def test_a_document_is_the_same_in_every_encoding(encoding: str, folder: Path) -> None:
    ended = shell(folder, "$invoke work --json", PYTHONIOENCODING=encoding)

    assert (ended.returncode, ended.stderr) == (0, b"")
    assert json.loads(ended.stdout.decode(encoding))["value"] == "20 °C — done …"
