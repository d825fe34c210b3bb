"""What commands that are ended have left running in containers: it is gone before anything else is done there."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from conche.backup import influx
from conche.backup.influx import BEGINNING
from conche.engine import programs
from conche.engine.connection import Engine
from conche.errors import Unreachable
from tests.backup.databases import Database
from tests.faults.test_deploy_engine import until
from tests.stacks import SmallStack, free_port

pytestmark = pytest.mark.engine

OURS = re.compile(r"sleep|^(/bin/)?sh |influx (backup|restore|bucket|query)")
"""Processes that no server and no healthcheck starts."""

FIRST, SECOND = "prices eur=1 1700000000\n", "prices eur=2 1700000100\n"

ROWS = """\
    rows:
      driver: command
      environment: dev
      service: influxdb
      dump:
        - sh
        - -c
        - |
          cat /rows
          if mv /tmp/dump /tmp/dump-waits; then while [ -e /tmp/dump-waits ]; do sleep 0.1; done; fi
      restore:
        - sh
        - -c
        - |
          cat > /rows.new
          if mv /tmp/restore /tmp/restore-waits; then while [ -e /tmp/restore-waits ]; do sleep 0.1; done; fi
          mv /rows.new /rows
"""


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory, engine: Engine, base_image: str) -> Iterator[Database]:
    stack = SmallStack.create(tmp_path_factory.mktemp("running") / "checkout", free_port())
    made = Database.create(stack, engine)
    stack.write("stack.yaml", (stack.folder / "stack.yaml").read_text() + ROWS)
    made.let_stand_still()
    made.sh("echo old > /rows")
    made.write(FIRST)
    yield made
    stack.remove_all(engine)


@pytest.fixture
def database(kept: Database) -> Iterator[Database]:
    """The same for every test, and nothing runs in it beside the server."""
    yield kept
    kept.sh(
        "rm -rf /tmp/*; for one in /proc/[0-9]*; do grep -qs '^sleep' $one/cmdline && kill -9 ${one#/proc/}; done; :"
    )


def left(database: Database) -> list[str]:
    """What runs in the container beside the server, and what lies in its /tmp."""
    [container] = database.stack.containers(database.engine)
    processes = database.engine.client.api.top(container.id)["Processes"]
    at_work = [one[-1] for one in processes if OURS.search(one[-1])]
    return [*at_work, *database.sh("ls /tmp").split()]


def ended_at(database: Database, file: str, number: signal.Signals, *words: str) -> int:
    """End a command when a file has come in the container."""
    stack = database.stack
    with subprocess.Popen(
        stack.argv(*words),
        cwd=stack.folder,
        env=stack.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        until(lambda: process.poll() is not None or bool(database.sh(f"ls {file} 2>/dev/null || :")))
        process.send_signal(number)
        process.wait()
    return process.returncode


def values(database: Database) -> int:
    return sum(database.influx.counts("energy", BEGINNING, datetime(2030, 1, 1, tzinfo=UTC)).values())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_restore_that_is_ended_does_not_go_on_in_the_container(database: Database, number: signal.Signals) -> None:
    name = database.backup().name
    database.write(SECOND)
    before = values(database)
    database.sh("touch /tmp/influx-restore")

    code = ended_at(
        database, "/tmp/influx-restore-waits", number, "backup.restore", name, "--component", "influxdb", "--force"
    )
    settled = database.stack.invoke("backup.settle")
    database.sh("rm -f /tmp/influx-restore-waits")

    assert code == (-number if number == signal.SIGKILL else 128 + number)
    assert settled.returncode == 0, settled.stderr
    assert left(database) == []
    assert values(database) == before
    assert not list(database.stack.folder.parent.glob("*-backups/.store/*.running.json"))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nor_does_that_of_any_other_program(database: Database, number: signal.Signals) -> None:
    name = database.backup().name
    database.sh("echo new > /rows; touch /tmp/restore")

    ended_at(database, "/tmp/restore-waits", number, "backup.restore", name, "--component", "rows", "--force")
    settled = database.stack.invoke("backup.settle")
    database.sh("rm -f /tmp/restore-waits")

    assert settled.returncode == 0, settled.stderr
    assert left(database) == []
    assert database.sh("cat /rows") == "new\n"


@pytest.mark.parametrize(("asked", "waits"), [("influx-backup", "influx-backup-waits"), ("dump", "dump-waits")])
def test_a_backup_that_is_killed_leaves_no_dump_and_no_program(database: Database, asked: str, waits: str) -> None:
    database.sh(f"touch /tmp/{asked}")

    ended_at(database, f"/tmp/{waits}", signal.SIGKILL, "backup.create")
    seen = left(database)
    done = database.stack.invoke("backup.prune")
    database.sh(f"rm -f /tmp/{waits}")

    assert seen != [waits]
    assert done.returncode == 0, done.stderr
    assert left(database) == []


def test_a_program_whose_note_is_damaged_is_ended_too_and_what_it_may_have_left_is_said(database: Database) -> None:
    database.sh("touch /tmp/dump")
    ended_at(database, "/tmp/dump-waits", signal.SIGKILL, "backup.create")
    store = database.stack.folder.parent.glob("*-backups/.store/*.running.json")
    [note] = store
    note.write_bytes(note.read_bytes()[:40])

    done = database.stack.invoke("backup.prune")
    seen = left(database)
    settled = database.stack.invoke("backup.settle", "--as-it-is")
    database.sh("rm -f /tmp/dump-waits")

    assert done.returncode == 0, done.stderr
    assert seen == ["dump-waits"]
    assert f"run: docker exec {database.influx.container.name} sh -c 'ls -d /tmp/conche-backup-*'" in done.stderr
    assert (settled.returncode, note.exists()) == (0, False)


def test_a_drill_that_is_killed_leaves_no_bucket(database: Database) -> None:
    database.backup()
    database.sh("touch /tmp/influx-bucket-delete")

    ended_at(database, "/tmp/influx-bucket-delete-waits", signal.SIGKILL, "backup.drill")
    buckets = database.influx.buckets()
    done = database.stack.invoke("backup.prune")
    database.sh("rm -f /tmp/influx-bucket-delete-waits")

    assert len(buckets) == 2
    assert done.returncode == 0, done.stderr
    assert database.influx.buckets() == ("energy",)
    assert left(database) == []


def test_a_server_that_does_not_answer_is_said_by_name(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    database.sh("touch /tmp/influx-bucket-delete")

    # What is asked afterwards has its usual time: a busy machine needs more than two seconds to begin.
    with monkeypatch.context() as patch:
        patch.setattr(influx, "ANSWER", 2.0)
        with pytest.raises(Unreachable, match=r"influx bucket delete in .* timed out after 2 s") as hangs:
            database.influx.delete_bucket("energy")
    database.sh("rm -f /tmp/influx-bucket-delete*")

    assert hangs.value.code == "influx-hangs"
    assert f"docker restart {database.influx.container.name}" in hangs.value.next_command
    assert left(database) == []
    assert database.influx.buckets() == ("energy",)


def test_too_little_room_in_the_container_is_said_before_anything_is_written(database: Database) -> None:
    with pytest.raises(Exception, match="must pass through /tmp") as refused:
        database.influx.make("/tmp/too-much", 1 << 60)

    assert getattr(refused.value, "code", "") == "no-room-in-container"
    assert left(database) == []


@pytest.mark.parametrize(
    ("script", "sleeps"),
    [("sleep 1000", 1), ("trap '' TERM; sleep 1000 & wait; sleep 1000", 1), ("setsid sleep 1000 & sleep 1000", 2)],
    ids=["at once", "deaf", "several"],
)
def test_whatever_carries_the_number_is_ended_and_nothing_else(database: Database, script: str, sleeps: int) -> None:
    container, mine, other = database.influx.container.id, programs.new_number(), programs.new_number()
    for number in (mine, other):
        argv = ["docker", "exec", "--detach", "--env", f"{programs.NUMBER}={number}", container, "sh", "-c", script]
        subprocess.run(argv, check=True)
    # Once each of them sleeps, no shell has anything left to start.
    until(lambda: sum(one.startswith("sleep") for one in left(database)) == 2 * sleeps)
    before = len(left(database))

    assert programs.end(database.engine, container, mine)
    assert not programs.end(database.engine, container, mine)

    assert len(left(database)) == before / 2
    assert programs.end(database.engine, container, other)
    assert left(database) == []


def test_one_of_another_user_is_ended_too(database: Database) -> None:
    container, number = database.influx.container.id, programs.new_number()
    argv = ["docker", "exec", "--detach", "--user", "1000", "--env", f"{programs.NUMBER}={number}"]
    subprocess.run([*argv, container, "sleep", "1000"], check=True)
    until(lambda: left(database) != [])

    assert programs.end(database.engine, container, number)

    assert left(database) == []


def test_without_a_shell_it_is_said_how_it_is_ended(database: Database) -> None:
    container, number = database.influx.container, programs.new_number()
    argv = ["docker", "exec", "--detach", "--env", f"{programs.NUMBER}={number}", container.id, "sleep", "1000"]
    subprocess.run(argv, check=True)
    until(lambda: left(database) != [])
    database.sh("mv /bin/sh /bin/sh-away")
    try:
        with pytest.raises(Unreachable) as caught:
            programs.end(database.engine, container.id, number)
    finally:
        subprocess.run(["docker", "exec", container.id, "mv", "/bin/sh-away", "/bin/sh"], check=True)

    assert caught.value.code == "program-not-ended"
    assert f"docker restart {container.name}" in caught.value.next_command
    assert programs.end(database.engine, container.id, number)
