"""secrets: a kill at any moment, and many at once, lose nothing."""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from conche.files import lock
from conche.secret import Secret
from conche.vault import keys
from conche.vault.recipients import write_recipients
from conche.vault.store import TEMPORARY, Edit, Store
from tests import warm
from tests.stacks import ROOT, SmallStack

pytestmark = pytest.mark.process

KILLS = 200

SERVER = """\
import itertools, os, pathlib, sys
from conche.secret import Secret
from conche.vault.store import Edit, Store

root, log = pathlib.Path(sys.argv[1]), os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND)
store = Store(root, root / "secrets.enc.yaml")

def work(round):
    for turn in itertools.count():
        value = f"{round}-{turn}"
        os.write(log, f"begun {value}\\n".encode())
        store.change("the loop", lambda _: Edit(put={"token": Secret(value)}))
        os.write(log, f"done {value}\\n".encode())
        if round % 4 == 0:
            store.rotate("the loop")

for round in iter(sys.stdin.readline, ""):
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        work(int(round))
    try:
        os.setpgid(child, child)
    except PermissionError:
        pass
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""
"""Forks, for each line, a child that changes the file until it is killed: the imports are paid for once."""


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """An encrypted file with a short value and a long one."""
    secret, public = keys.generate()
    monkeypatch.setenv("SOPS_AGE_KEY", secret.reveal())
    store = Store(tmp_path, tmp_path / "secrets.enc.yaml")
    write_recipients(tmp_path, store.file, (public,))
    values = {"token": Secret("the first"), "long": Secret("x" * 30_000)}
    store.create(values, (public,), keys.require(tmp_path), replace=False)
    return store


@pytest.fixture
def server(store: Store, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """What forks a child for each line, and says the child's number and how it ended."""
    (tmp_path / "log").touch()
    argv = [sys.executable, "-c", SERVER, str(tmp_path), str(tmp_path / "log")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, env=environment
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


@pytest.mark.long
def test_after_any_of_200_kills_the_file_holds_the_old_value_or_the_new_one(
    store: Store, server: subprocess.Popen[str], tmp_path: Path
) -> None:
    assert server.stdin is not None
    assert server.stdout is not None
    moments = random.Random(20261123)
    # As many kills before the end of the first change as after it, however fast sops is here just now.
    begun_at = time.monotonic()
    store.change("how long it takes", lambda _: Edit(put={"token": Secret("before")}))
    longest = min(2 * (time.monotonic() - begun_at), 1.0)
    last, finished, left = "before", 0, 0
    for number in range(KILLS):
        (tmp_path / "log").write_bytes(b"")
        server.stdin.write(f"{number}\n")
        child = int(server.stdout.readline())
        ended, _, _ = select.select([server.stdout], [], [], moments.uniform(0, longest))
        assert not ended, "the child ended by itself"
        # However slow the machine has become: one in eight has a change behind it.
        while number // 4 % 8 == 0 and "done" not in (tmp_path / "log").read_text():
            ended, _, _ = select.select([server.stdout], [], [], 0.01)
            assert not ended, "the child ended by itself"
        # sops is killed with it, or goes on alone.
        (os.killpg if number % 2 else os.kill)(child, signal.SIGKILL)
        assert int(server.stdout.readline()) == signal.SIGKILL

        log = (tmp_path / "log").read_text().splitlines()
        done = [last, *(line.removeprefix("done ") for line in log if line.startswith("done "))]
        begun = [last, *(line.removeprefix("begun ") for line in log if line.startswith("begun "))]
        values = store.read()
        assert values["token"].reveal() in {done[-1], begun[-1]}, f"kill {number}"
        assert values["long"] == Secret("x" * 30_000)
        last = values["token"].reveal()
        finished += len(done) - 1
        left += any(tmp_path.glob(f"{TEMPORARY}*"))

    assert finished, "no change was ever complete"
    assert left, "no kill ever hit a change"
    with lock(store.file.name, "to see that nobody holds it", folder=tmp_path / ".sops"):
        pass
    store.change("afterwards", lambda _: Edit(put={"token": Secret("the last")}))
    assert store.read()["token"] == Secret("the last")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".sops", ".sops.yaml", "log", "secrets.enc.yaml"]


def test_of_12_parallel_sets_none_is_lost(store: Store, tmp_path: Path) -> None:
    names = [f"secret_{number}" for number in range(12)]
    declared = "".join(f"    {name}: {{required: false}}\n" for name in names)
    small = SmallStack.create(tmp_path, port=8000)
    small.write("stack.yaml", (tmp_path / "stack.yaml").read_text() + f"secrets:\n  declared:\n{declared}")
    running = []
    for name in names:
        process = warm.Popen[bytes](
            small.argv("secrets.set", name),
            before="tests.faults.steps:wait_longer",
            told=300,
            cwd=tmp_path,
            env=small.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert process.stdin is not None
        process.stdin.write(f"value of {name}\n".encode())
        process.stdin.close()
        process.stdin = None
        running.append(process)

    said = {name: (process.communicate()[0], process.returncode) for name, process in zip(names, running, strict=True)}

    assert {name: code for name, (_, code) in said.items()} == dict.fromkeys(names, 0), said
    values = store.read()
    assert {name: values[name].reveal() for name in names} == {name: f"value of {name}" for name in names}
