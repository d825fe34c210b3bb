"""A SQLite database under an application that writes, corrupted and restored, and compared with what it was."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from conche.backup import manifest
from conche.engine.connection import Engine
from tests.backup.servers import Server
from tests.stacks import SmallStack, free_port
from tests.standing import standing

pytestmark = pytest.mark.engine

WRITER = """\
import sqlite3, time
database = sqlite3.connect("/data/it's.db", timeout=60, isolation_level=None)
database.execute("PRAGMA journal_mode = WAL")
database.execute("CREATE TABLE IF NOT EXISTS written (n INTEGER PRIMARY KEY)")
while True:
    database.execute("INSERT INTO written DEFAULT VALUES")
    time.sleep(0.05)
"""

SERVICE = """\
    command: [python3, -u, /srv/writer]
    init: true
    volumes: ["data:/data", "../app/writer:/srv/writer:ro"]"""

COMPONENT = 'driver: sqlite, database: "/data/it\'s.db"'

CLIENT = ("sqlite3", "-bail", "-cmd", ".timeout 60000", "/data/it's.db")

FILL = """\
DROP TABLE IF EXISTS good; DROP TABLE IF EXISTS later; DROP VIEW IF EXISTS seen; DROP TABLE IF EXISTS words;
DROP TABLE IF EXISTS "it's; odd"; DROP INDEX IF EXISTS fast;
CREATE TABLE good (x, "odd "" column" BLOB); INSERT INTO good VALUES ('one', x'00FF27'), (2.5, NULL);
CREATE TABLE "it's; odd" (n); CREATE VIEW seen AS SELECT count(*) FROM good; CREATE INDEX fast ON good (x);
CREATE VIRTUAL TABLE words USING fts5(word); INSERT INTO words VALUES ('hello');
"""

SPOIL = """\
UPDATE good SET x = 'bad'; DROP VIEW seen; DROP TABLE "it's; odd"; CREATE TABLE later (x); INSERT INTO later VALUES (1);
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, engine: Engine) -> Iterator[Server]:
    stack = SmallStack.create(tmp_path_factory.mktemp("sqlite") / "checkout", free_port())
    stack.write("app/writer", WRITER)
    try:
        yield Server.create(stack, engine, SERVICE, COMPONENT, CLIENT)
    finally:
        stack.remove_all(engine)


def state(server: Server) -> str:
    """Everything in the database but what the application writes."""
    lines = server.ask(".dump").splitlines()
    return "\n".join(line for line in lines if not line.startswith("INSERT INTO written"))


def copies(server: Server) -> list[str]:
    every = server.engine.client.api.containers(all=True)
    return [one["Id"] for one in every if f"{server.stack.name}-dev-drill" in str(one["Labels"])]


def test_everything_comes_back_twice_under_an_application_that_writes(server: Server) -> None:
    server.ask(FILL)
    good, name = state(server), server.backup()
    server.ask(SPOIL)
    bad = state(server)

    first = server.invoke("backup.restore", name, "--force")
    restored = state(server)
    undone = server.invoke("backup.undo", "--force")
    spoilt = state(server)
    again = server.invoke("backup.restore", name, "--force")

    proof = {"component": "db", "proven": True, "why": "its check answers as it did at the time of the backup"}
    assert (first[0], first[1]["value"]["proofs"]) == (0, [proof]), first[2]
    assert f"stopping {server.stack.name}-db" in first[2]
    assert (undone[0], again[0]) == (0, 0), undone[2] + again[2]
    assert bad != good
    assert (restored, spoilt, state(server)) == (good, bad, good)
    record = manifest.read(server.folder(name)).components["db"]
    assert record.facts["server"].startswith("SQLite 3.")
    assert {"good 2", "it's; odd 0"} <= {*record.facts["check"].splitlines()}
    # The application goes on with what it has now.
    before = server.ask("SELECT count(*) FROM written")
    while server.ask("SELECT count(*) FROM written") == before:
        pass
    assert copies(server) == []


KILLED = {
    "before it is loaded": ("subprocess.Popen", "'sqlite', 'restore'", False),
    "before it is final": ("os.rename", "pre-restore-", True),
}


@pytest.mark.long
@pytest.mark.parametrize("point", KILLED)
def test_one_that_is_killed_is_taken_back_or_finished(server: Server, point: str) -> None:
    event, at, done = KILLED[point]
    server.ask(FILL)
    good, name = state(server), server.backup()
    server.ask(SPOIL)
    bad = state(server)

    with standing(server.stack, "backup.restore", name, "--force", event=event, at=at) as one:
        one.kill()
    code, _, said = server.invoke("backup.verify", name)
    left, found = copies(server), state(server)
    again, _, heard = server.invoke("backup.restore", name, "--force")

    assert (code, again) == (0, 0), said + heard
    assert found == (good if done else bad)
    assert state(server) == good
    assert left == copies(server) == []


def test_a_file_that_is_no_database_any_more_is_exchanged_or_stays_as_it_is(server: Server) -> None:
    server.ask(FILL)
    good, name = state(server), server.backup()
    container, image = f"{server.stack.name}-db", f"localhost:5000/{server.stack.name}:databases"
    beside = ["docker", "run", "--rm", "--volumes-from", container, image, "sh", "-euc"]
    subprocess.run(["docker", "stop", container], check=True, capture_output=True)
    spoil = 'rm -f "/data/it\'s.db"*; head -c 8192 /dev/urandom > "/data/it\'s.db"'
    subprocess.run([*beside, spoil], check=True, capture_output=True)
    look = [*beside, "cat /data/it*"]
    broken = subprocess.run(look, check=True, capture_output=True).stdout

    event, at, _ = KILLED["before it is loaded"]
    with standing(server.stack, "backup.restore", name, "--force", event=event, at=at) as one:
        one.kill()
    server.invoke("backup.verify", name)
    found = subprocess.run(look, check=True, capture_output=True).stdout
    restored, done, said = server.invoke("backup.restore", name, "--force")

    assert found == broken
    assert restored == 0, said
    assert [one for one in done["warnings"] if "was no database any more: its file was exchanged" in one]
    subprocess.run(["docker", "start", container], check=True, capture_output=True)
    assert state(server) == good


def test_a_drill_loads_it_into_a_scratch_file(server: Server) -> None:
    name = server.backup()

    code, done, said = server.invoke("backup.drill", name)

    results = {one["component"]: one["said"] for one in done["value"]["results"]}
    assert (code, done["value"]["proven"]) == (0, True), said
    assert results["db, loaded on trial"] == "its check answers as it did at the time of the backup"
