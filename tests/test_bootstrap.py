"""scripts/bootstrap with a folder of environments, as a runner has: made once, found again, never half."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.process

MADE = "bootstrap: installing"


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    """A lock file that asks for nothing, so that no index is needed."""
    file = tmp_path / "some.lock"
    file.write_text("# nothing\n")
    return file


def command(tmp_path: Path, lock: Path, *, limit: str = "unlimited") -> tuple[Sequence[str], dict[str, str]]:
    """What makes the environment of a lock file; `limit` is the largest file that it can write, in KiB."""
    script = f'ulimit -f {limit} && exec "$0" --lock "$1"'
    environment = {**os.environ, "CONCHE_ENVIRONMENTS": str(tmp_path / "environments"), "CONCHE_VENV": ""}
    return ["bash", "-c", script, str(ROOT / "scripts/bootstrap"), str(lock)], environment


def made(tmp_path: Path, lock: Path) -> tuple[Path, str]:
    """The environment of a lock file, and what was said of it."""
    argv, environment = command(tmp_path, lock)
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=True)
    return Path(done.stdout.strip()), done.stderr


def works(folder: Path) -> bool:
    done = subprocess.run([folder / "bin/python", "-m", "pip", "--version"], capture_output=True, check=False)
    return done.returncode == 0


def test_an_environment_is_made_once_for_a_lock_file(tmp_path: Path, lock: Path) -> None:
    first, said = made(tmp_path, lock)
    elsewhere = tmp_path / "checkout of the next job" / lock.name
    elsewhere.parent.mkdir()
    elsewhere.write_text(lock.read_text())
    second, said_then = made(tmp_path, elsewhere)

    assert MADE in said
    assert MADE not in said_then
    assert first == second
    assert works(first)


def test_two_jobs_that_need_the_same_one_make_it_once(tmp_path: Path, lock: Path) -> None:
    argv, environment = command(tmp_path, lock)
    jobs = [
        subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    told = [job.communicate() for job in jobs]

    assert [job.returncode for job in jobs] == [0, 0]
    assert told[0][0] == told[1][0]
    assert sum(MADE in said for _, said in told) == 1


@pytest.mark.long
def test_what_a_killed_job_has_left_is_made_anew(tmp_path: Path, lock: Path) -> None:
    folder, _ = made(tmp_path, lock)
    (folder / ".made-from").unlink()
    (folder / "half").touch()

    again, said = made(tmp_path, lock)

    assert again == folder
    assert MADE in said
    assert not (folder / "half").exists()


def test_an_environment_that_the_disk_has_no_room_for_is_not_taken_for_one(tmp_path: Path, lock: Path) -> None:
    argv, environment = command(tmp_path, lock, limit="16")

    failed = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    folder, said = made(tmp_path, lock)

    assert failed.returncode != 0
    assert failed.stdout == ""
    assert MADE in said
    assert works(folder)


@pytest.mark.long
def test_what_nobody_has_asked_for_in_thirty_days_is_removed(tmp_path: Path, lock: Path) -> None:
    old, _ = made(tmp_path, lock)
    month_ago = time.time() - 31 * 86400
    os.utime(f"{old}.lock", (month_ago, month_ago))

    lock.write_text("# something else\n")
    new, _ = made(tmp_path, lock)

    assert new != old
    assert works(new)
    assert not old.exists()


def test_without_python_it_ends_with_what_to_install(tmp_path: Path, lock: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("bash", "cat", "cut", "dirname", "find", "flock", "mkdir", "realpath", "sha256sum", "touch"):
        (tools / name).symlink_to(shutil.which(name) or name)
    argv, environment = command(tmp_path, lock)

    done = subprocess.run(argv, env={**environment, "PATH": str(tools)}, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (9, "")
    assert done.stderr.splitlines() == [
        "bootstrap: no Python 3.11 or later on PATH",
        "bootstrap: Next: install python3 (Debian 12 and later, Ubuntu 24.04 and later)",
    ]


def test_a_lock_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    argv, environment = command(tmp_path, tmp_path / "none.lock")

    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert f"no file '{tmp_path}/none.lock'" in done.stderr
