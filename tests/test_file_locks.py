"""Locks do not outlive their holders, and say who holds them."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from conche.errors import Locked
from conche.files import lock
from tests.test_files import a_dead_process, another_process, line

HOLD = "with lock('dev', 'env.up dev'):\n    print('held', flush=True)\n    input()"


@pytest.mark.process
def test_a_lock_excludes_a_second_process_and_tells_who_holds_it() -> None:
    with another_process(HOLD) as holder:
        assert line(holder) == "held"

        with pytest.raises(Locked) as caught, lock("dev", "env.down dev"):
            pytest.fail("two hold the lock")

        assert (caught.value.code, caught.value.status, caught.value.message) == (
            "already-running",
            7,
            f"dev is locked by process {holder.pid}: env.up dev.",
        )
        assert caught.value.next_command == "wait for it to end, and try again"
        with lock("prod", "another name"):
            pass


@pytest.mark.process
def test_whoever_waits_for_a_lock_says_once_for_whom() -> None:
    said: list[str] = []
    with another_process(HOLD) as holder:
        assert line(holder) == "held"

        def told(words: str) -> None:
            said.append(words)
            holder.kill()
            holder.wait()

        with lock("dev", "env.down dev", wait=60, say=told):
            pass

    assert said == [f"waiting for process {holder.pid}: env.up dev"]


def test_a_lock_excludes_the_same_process_too() -> None:
    with lock("dev", "first"), pytest.raises(Locked, match="first"), lock("dev", "second"):
        pytest.fail("the lock is held twice")


@pytest.mark.process
def test_a_lock_is_free_after_its_holder_was_killed() -> None:
    with another_process(HOLD) as holder:
        assert line(holder) == "held"
        holder.kill()
        holder.wait()

        with lock("dev", "next"), pytest.raises(Locked, match=f"process {os.getpid()}: next"):
            lock("dev", "third").__enter__()


def test_a_lock_is_free_after_its_end_and_after_a_fault() -> None:
    held: list[str] = []
    for purpose in ("first", "a long, long second purpose", "third"):
        with contextlib.suppress(ZeroDivisionError), lock("dev", purpose):
            held.append(purpose)
            raise ZeroDivisionError

    assert held == ["first", "a long, long second purpose", "third"]


def test_a_holder_in_another_container_is_not_taken_for_dead(tmp_path: Path) -> None:
    with lock("dev", "here", folder=tmp_path):
        (tmp_path / "dev.lock").write_text(f"{a_dead_process()} pid:[1] env.up dev")

        with pytest.raises(Locked, match=r"of another container: env\.up dev"), lock("dev", "there", folder=tmp_path):
            pytest.fail("two hold the lock")


@pytest.mark.process
def test_who_comes_after_a_killed_holder_waits_for_the_child_that_holds_on(tmp_path: Path) -> None:
    """Since the child writes before it lets go, the next holder must find what it wrote."""
    os.mkfifo(tmp_path / "gate")
    gate = os.open(tmp_path / "gate", os.O_RDWR)
    code = """
from conche.process import run
with lock('dev', 'env.up dev') as held:
    script = 'echo started >&2; read -r word <"$1/gate"; echo done >"$1/result"'
    argv = ["sh", "-c", script, "sh", sys.argv[1]]
    run(argv, outlives=True, keep_open=[held], on_line=lambda text: print(text, flush=True))
"""
    with another_process(code, tmp_path) as holder:
        assert line(holder) == "started"
        holder.kill()
        holder.wait()
        with another_process(
            "with lock('dev', 'next'): print(Path(sys.argv[1]).read_text())", tmp_path / "result"
        ) as following:
            os.write(gate, b"go\n")
            assert line(following) == "done"
    os.close(gate)
