"""The output of an exec is read frame by frame, and one that is cut off is no output."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from conche.engine.connection import translated
from conche.engine.frames import demultiplexed
from conche.errors import Unreachable
from tests.stacks import ROOT


def frame(stream: int, content: bytes) -> bytes:
    return struct.pack(">BxxxL", stream, len(content)) + content


WHOLE = frame(1, b"data") + frame(2, b"a warning") + frame(1, b"") + frame(1, b"more")


def test_each_frame_is_of_stdout_or_of_stderr() -> None:
    assert list(demultiplexed(io.BytesIO(WHOLE))) == [(b"data", None), (None, b"a warning"), (b"more", None)]


@pytest.mark.parametrize("missing", [1, 4, 7], ids=["within a frame", "before its content", "within its header"])
def test_what_is_cut_off_is_an_error_and_not_the_end(missing: int) -> None:
    with pytest.raises(Unreachable, match="No Docker engine"), translated("tcp://away:2375"):
        list(demultiplexed(io.BytesIO(WHOLE[:-missing])))


SSH = """\
#!{python}
import json, os, sys
from pathlib import Path

said, code, running = {said!r}, {code}, {running}
requests, answers = sys.stdin.buffer, sys.stdout.buffer

def answer(value):
    body = json.dumps(value).encode()
    answers.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n%s" % (len(body), body))
    answers.flush()

while line := requests.readline():
    length = 0
    while (header := requests.readline()) not in (b"\\r\\n", b""):
        if header.lower().startswith(b"content-length:"):
            length = int(header.split(b":")[1])
    requests.read(length)
    if b"/start " in line:
        answers.write(b"HTTP/1.1 101 UPGRADED\\r\\nConnection: Upgrade\\r\\nUpgrade: tcp\\r\\n\\r\\n" + said)
        answers.flush()
        os._exit(code)
    answer({{"ApiVersion": "1.41", "Running": running, "ExitCode": None if running else 0}})
"""
"""An ssh to an engine that runs one program."""

READ = """\
from conche.engine.connection import Engine, translated
from conche.engine.frames import frames
from conche.errors import Unreachable
engine = Engine("ssh://far")
try:
    with translated(engine.address):
        for out, _ in frames(engine, "1"):
            print("said", (out or b"").decode(), flush=True)
except Unreachable:
    print("cut off")
"""


@pytest.mark.process
@pytest.mark.parametrize(
    ("said", "code", "running", "expected"),
    [
        (WHOLE, 0, False, ["said data", "said ", "said more"]),
        (WHOLE[:-1], 0, False, ["said data", "said ", "said mor", "cut off"]),
        (WHOLE, 255, False, ["said data", "said ", "said more", "cut off"]),
        (WHOLE, 0, True, ["said data", "said ", "said more", "cut off"]),
    ],
    ids=["whole", "within a frame", "between frames", "the program runs on"],
)
def test_over_ssh_too(tmp_path: Path, said: bytes, code: int, running: bool, expected: list[str]) -> None:
    ssh = tmp_path / "ssh"
    ssh.write_text(SSH.format(python=sys.executable, said=said, code=code, running=running))
    ssh.chmod(0o755)
    given = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}

    done = subprocess.run([sys.executable, "-c", READ], env=given, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout.splitlines()) == (0, expected), done.stderr
