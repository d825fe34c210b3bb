"""The programs of databases: which argvs there are, and which server can load what another one has dumped."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from conche.backup.drivers.program import is_older, last_lines
from conche.backup.drivers.programs import programs_of, stopping
from conche.engine.programs import NUMBER, new_number
from conche.stack import Component


def component(driver: str, **more: str) -> Component:
    return Component.model_validate({"driver": driver, "environment": "dev", "service": "db", **more})


@pytest.mark.parametrize(
    ("now", "then", "older"),
    [
        ("PostgreSQL 15.3", "PostgreSQL 15.18", False),
        ("PostgreSQL 16.0", "PostgreSQL 15.18", False),
        ("PostgreSQL 14.20", "PostgreSQL 15.1", True),
        ("PostgreSQL 18beta1", "PostgreSQL 17.2", False),
        ("MariaDB 10.6.20", "MariaDB 10.11.19", True),
        ("MariaDB 11.4.2", "MariaDB 10.11.19", False),
        ("MySQL 8.0.36", "MySQL 8.4.0", True),
        ("MySQL 8.4.0", "MariaDB 10.11.19", True),
        ("MariaDB 11.4.2", "MySQL 5.7.1", True),
        ("Redis 7.2.4", "Redis 7.0.15", False),
        ("Redis 6.2.14", "Redis 7.0.15", True),
        ("SQLite 3.34.1", "SQLite 3.46.0", False),
        ("", "PostgreSQL 15.1", True),
    ],
)
def test_an_older_server_loads_no_dump_of_a_later_one(now: str, then: str, older: bool) -> None:
    assert is_older(now, then) is older


@pytest.mark.parametrize("driver", ["mariadb", "postgres", "redis"])
def test_a_database_has_a_program_for_everything_and_its_service_runs_on(driver: str) -> None:
    found = programs_of(component(driver))

    every = (found.dump, found.save, found.restore, found.check, found.version, found.ready)
    assert [argv[4] for argv in every] == ["dump", "save", "restore", "check", "version", "ready"]
    assert [f"\n{argv[4]}" in argv[2] or f"| {argv[4]})" in argv[2] for argv in every] == [True] * 6
    assert found.trial == ()
    assert stopping(component(driver)) == ()


def test_what_sqlite_is_opened_by_stops_while_it_is_replaced() -> None:
    sqlite = component("sqlite", database="/data/app.db")

    assert stopping(sqlite) == ("db",)
    assert (programs_of(sqlite).ready, programs_of(sqlite).trial[3:6]) == ((), ("sqlite", "trial", "/data/app.db"))


def test_a_components_own_check_and_its_programs_go_first() -> None:
    own = Component.model_validate(
        {"driver": "command", "environment": "dev", "service": "db", "dump": ("d",), "restore": ("r",), "check": ("c",)}
    )

    assert programs_of(own).save == ("d",)
    assert programs_of(own).check == ("c",)
    checked = Component.model_validate({"driver": "redis", "environment": "dev", "service": "db", "check": ("c",)})
    assert programs_of(checked).check == ("c",)


@pytest.mark.parametrize("driver", ["mariadb", "postgres", "redis", "sqlite"])
def test_a_script_is_one_that_a_plain_shell_reads(driver: str) -> None:
    script = programs_of(component(driver, **({"database": "/x"} if driver == "sqlite" else {}))).dump[2]

    done = subprocess.run(["sh", "-n"], input=script, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")


def test_of_what_a_program_warns_of_the_end_is_kept() -> None:
    kept = last_lines("".join(f"{number} {'x' * 1000}\n" for number in range(100)) + "\n")

    assert (len(kept), kept[0][:3], {len(line) for line in kept}) == (20, "80 ", {500})


def run(of: Component, verb: str, stdin: bytes = b"", **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a verb of a database's script here, without a container; it waits for no lock."""
    argv: tuple[str, ...] = getattr(programs_of(of), verb)
    script = (
        argv[2]
        .replace("timeout=60", "timeout=0")
        .replace(".timeout 60000", ".timeout 0")
        .replace("most=300", "most=20")
    )
    whole = {"PATH": os.environ["PATH"], **environment}
    words = [*argv[:2], script, *argv[3:]]
    return subprocess.run(words, input=stdin, capture_output=True, check=False, env=whole, timeout=120)


def test_a_database_that_its_application_has_for_itself_is_not_waited_for_without_end(tmp_path: Path) -> None:
    file = tmp_path / "app.db"
    with closing(sqlite3.connect(file, isolation_level=None)) as application:
        application.execute("CREATE TABLE kept (x)")
        application.execute("BEGIN EXCLUSIVE")

        done = run(component("sqlite", database=str(file)), "dump")

    assert done.returncode != 0
    assert b"locked" in done.stderr


def test_why_a_database_cannot_be_written_is_said(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "app.db")) as database:
        database.execute("CREATE TABLE kept (x)")

    missing = component("sqlite", database=str(tmp_path / "not/there/app.db"))
    done = run(missing, "restore", (tmp_path / "app.db").read_bytes())

    assert done.returncode != 0
    assert b"not/there/app.db" in done.stderr


def test_a_server_is_asked_whether_it_is_ready_as_the_user_it_knows(tmp_path: Path) -> None:
    """Without its default user a Redis tells nobody else."""
    for name, words in (
        ("redis-cli", '[ "$*" = "--user backup ping" ] && echo PONG || echo NOAUTH'),
        ("redis-server", ""),
    ):
        (tmp_path / name).write_text(f"#!/bin/sh\n{words}\n")
        (tmp_path / name).chmod(0o755)

    done = run(component("redis", user="backup"), "ready", PATH=f"{tmp_path}:{os.environ['PATH']}")

    assert done.returncode == 0, done.stderr


CLIENT = r"""
case "$*" in
*-p*) echo PONG; exit ;;
*ping) echo "${PING:-PONG}"; exit ;;
esac
while IFS= read -r line; do
  printf '%s\n' "$line" >>"$SAID"
  case $line in
  "INFO replication")
    printf 'master_host:\r\nmaster_link_status:%s\r\n' "$LINK"
    if [ "$LINK" = down ]; then looks=$(grep -c INFO "$SAID"); else looks=0; fi
    printf 'master_sync_in_progress:%s\r\n' "$((looks / 2 % SYNCS))"
    ;;
  "CONFIG GET masteruser") printf 'masteruser\nsomebody\n' ;;
  "CONFIG GET masterauth") printf 'masterauth\na"b\\c\n' ;;
  "CONFIG GET tls-replication") printf 'tls-replication\nyes\n' ;;
  "CONFIG GET appendonly") printf 'appendonly\nno\n' ;;
  "CONFIG GET "*) echo "${line#CONFIG GET }" ;;
  *) echo OK ;;
  esac
done
"""
"""A client of a server that is a replica elsewhere, by a user and over TLS."""

BACK = ['CONFIG SET masteruser "somebody"', r'CONFIG SET masterauth "a\"b\\c"', 'CONFIG SET tls-replication "yes"']


@pytest.fixture
def redis(tmp_path: Path) -> dict[str, str]:
    """The environment of a container whose time flies."""
    for name, words in (("redis-cli", CLIENT), ("redis-server", "exec /bin/sleep 60"), ("sleep", "")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{words}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "scratch").mkdir()
    return {
        "PATH": f"{tmp_path}:{os.environ['PATH']}", "SAID": str(tmp_path / "said"), "SYNCS": "1",
        "TMPDIR": str(tmp_path / "scratch"), NUMBER: new_number(),
    }  # fmt: skip


def test_a_redis_that_is_a_replica_by_a_user_and_tls_takes_over_a_dump_and_is_as_before(redis: dict[str, str]) -> None:
    done = run(component("redis"), "restore", b"REDIS0010", **redis, LINK="up")

    said = [one for one in Path(redis["SAID"]).read_text().splitlines() if one.startswith(("CONFIG SET", "REPLICAOF"))]
    assert done.returncode == 0, done.stderr
    assert (said[0], said[2]) == ('CONFIG SET masteruser ""', 'CONFIG SET tls-replication "no"')
    assert [one.rpartition(" ")[0] for one in said[3:5]] == ["REPLICAOF 127.0.0.1", "REPLICAOF NO"]
    assert said[5:] == BACK
    assert list(Path(redis["TMPDIR"]).iterdir()) == []


@pytest.mark.parametrize("syncs", ["1", "2"], ids=["never begins", "fails again and again"])
def test_a_redis_that_does_not_take_over_a_dump_is_not_waited_for_without_end(
    redis: dict[str, str], syncs: str
) -> None:
    done = run(component("redis"), "restore", b"REDIS0010", **{**redis, "SYNCS": syncs}, LINK="down")

    said = Path(redis["SAID"]).read_text().splitlines()
    assert done.returncode != 0
    assert b"does not take over the dump" in done.stderr
    assert said[-4:] == ["REPLICAOF NO ONE", *BACK]


@pytest.mark.parametrize("verb", ["dump", "restore"])
def test_a_redis_that_takes_tls_alone_is_named(redis: dict[str, str], verb: str) -> None:
    done = run(component("redis"), verb, b"REDIS0010", **redis, PING="Error: Server closed the connection")

    assert done.returncode != 0
    assert b"without TLS: Error: Server closed" in done.stderr
