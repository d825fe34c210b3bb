"""What a database's programs put into the container's /tmp is found again if they are killed."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from conche.backup import belief, running
from conche.backup.drivers.programs import leaves_scratch, programs_of
from conche.engine import programs
from conche.stack import Component

REDIS = Component(driver="redis", environment="dev", service="db")

CLIENT = """\
#!/bin/sh
case "$*" in
--rdb*) echo data > "$2"; kill -KILL $PPID ;;
ping) echo PONG ;;
*) echo cluster_enabled:0 ;;
esac
"""
"""A redis-cli whose caller is killed while the dump is there."""


@pytest.mark.process
def test_a_folder_that_a_killed_program_leaves_is_named_by_its_number(tmp_path: Path) -> None:
    number, place = programs.new_number(), tmp_path / "tmp"
    place.mkdir()
    for name in ("redis-cli", "redis-server"):
        (tmp_path / name).write_text(CLIENT)
        (tmp_path / name).chmod(0o755)
    given = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "TMPDIR": str(place), programs.NUMBER: number}

    killed = subprocess.run(programs_of(REDIS).dump, env=given, capture_output=True, check=False)
    left = [path.name for path in place.iterdir()]
    subprocess.run(["sh", "-c", running.REMOVE, "sh", f"{running.SCRATCH}{number}"], env=given, check=True)

    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert left == [f"conche-backup-{number}"]
    assert list(place.iterdir()) == []


def test_the_note_of_such_a_program_names_it(tmp_path: Path) -> None:
    environments = {"dev": SimpleNamespace(engine="tcp://127.0.0.1:1", swarm=False)}
    site: Any = SimpleNamespace(
        target=SimpleNamespace(store=tmp_path), stack=SimpleNamespace(environments=environments)
    )
    container: Any = SimpleNamespace(id="c", name="db")
    noted = running.noted(site, REDIS, container, scratch=leaves_scratch(REDIS))

    # The engine does not answer, so that the note stays.
    with pytest.raises(KeyboardInterrupt), noted as program:
        raise KeyboardInterrupt

    [note] = tmp_path.iterdir()
    assert program.folder == f"{running.SCRATCH}{program.number}"
    assert belief.is_folder(program.folder)
    assert program.folder in note.read_text()
