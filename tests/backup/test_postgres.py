"""A PostgreSQL server of Debian's packages, corrupted and restored, and compared with what it was."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from conche.backup import manifest
from conche.engine.connection import Engine
from tests.backup.servers import Server
from tests.backup.test_forged import forge, says
from tests.stacks import SmallStack, free_port
from tests.standing import standing

pytestmark = pytest.mark.engine

SERVICE = """\
    command: [start-postgres, -c, wal_level=logical]
    environment: {POSTGRES_USER: app, POSTGRES_DB: shop, POSTGRES_PASSWORD_FILE: /run/secrets/password}
    volumes: ["data:/var/lib/postgresql/data"]
    healthcheck:
      {test: [CMD, pg_isready, -q, -h, 127.0.0.1], interval: 1s, timeout: 5s, retries: 60, start_period: 60s}"""

CLIENT = (
    "sh", "-euc",
    'export PGPASSWORD="$(cat /run/secrets/password)"; exec psql -X -q -A -t -v ON_ERROR_STOP=1 -U app "$@"', "sh",
)  # fmt: skip

ALL = ("sh", "-euc", 'PGPASSWORD="$(cat /run/secrets/password)" exec pg_dumpall --inserts -U app')

FILL = """\
CREATE ROLE readers; CREATE ROLE "odd 'role" LOGIN PASSWORD 'se''cret'; GRANT readers TO "odd 'role";
ALTER DATABASE shop OWNER TO "odd 'role"; ALTER DATABASE shop SET search_path TO orders, public;
ALTER ROLE "odd 'role" IN DATABASE shop SET statement_timeout TO '9s'; GRANT CONNECT ON DATABASE shop TO readers;
CREATE EXTENSION hstore; CREATE SCHEMA orders AUTHORIZATION "odd 'role";
CREATE TABLE orders.item (id serial PRIMARY KEY, name text, more hstore);
INSERT INTO orders.item (name, more) SELECT E'good\\n' || n, 'a=>1' FROM generate_series(1, 500) AS n;
CREATE TABLE orders.split (n int) PARTITION BY LIST (n);
CREATE TABLE orders.one PARTITION OF orders.split FOR VALUES IN (1);
INSERT INTO orders.split VALUES (1);
CREATE VIEW orders.seen AS SELECT count(*) FROM orders.item; CREATE MATERIALIZED VIEW orders.kept AS SELECT 1 AS x;
CREATE FUNCTION twice(n int) RETURNS int LANGUAGE sql AS 'SELECT 2 * n'; CREATE PUBLICATION news FOR ALL TABLES;
CREATE FUNCTION seen() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
CREATE EVENT TRIGGER watch ON ddl_command_start EXECUTE FUNCTION seen();
REVOKE ALL ON SCHEMA public FROM PUBLIC; GRANT SELECT ON orders.item TO readers;
SELECT lo_from_bytea(4242, 'a large object');
CREATE DATABASE "second 'one";
"""

SPOIL = """\
UPDATE orders.item SET name = 'bad'; DROP TABLE orders.split; CREATE TABLE later (x int); CREATE SCHEMA other;
CREATE TABLE other.later (x int); SELECT lo_unlink(4242); DROP PUBLICATION news; ALTER DATABASE shop RESET ALL;
GRANT ALL ON SCHEMA public TO PUBLIC; DROP DATABASE "second 'one"; CREATE DATABASE extra;
"""


def state(server: Server) -> str:
    """Everything that is in the server, by its own program; the keys that it makes up are left out."""
    return re.sub(r"(?m)^\\(un)?restrict .*\n", "", server.inside(*ALL))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, engine: Engine) -> Iterator[Server]:
    stack = SmallStack.create(tmp_path_factory.mktemp("postgres") / "checkout", free_port())
    try:
        server = Server.create(stack, engine, SERVICE, "driver: postgres", CLIENT)
        server.ask(FILL, "shop")
        yield server
    finally:
        stack.remove_all(engine)


@pytest.fixture
def server(made: Server) -> Iterator[Server]:
    """The same for every test, which may change its stack.yaml, and leaves behind what it found."""
    before = (made.stack.folder / "stack.yaml").read_text()
    yield made
    made.stack.write("stack.yaml", before)


def spoil(server: Server) -> None:
    for statement in SPOIL.splitlines()[:-1]:
        server.ask(statement, "shop")
    for statement in SPOIL.splitlines()[-1].split(";"):
        server.ask(statement, "shop")


def test_everything_comes_back_twice_and_what_was_there_comes_back_too(server: Server) -> None:
    good, name = state(server), server.backup()
    spoil(server)
    bad = state(server)

    first = server.invoke("backup.restore", name, "--force")
    restored = state(server)
    again = server.invoke("backup.restore", name, "--force")
    twice = state(server)
    undone = [(server.invoke("backup.undo", "--force")[0], state(server)) for _ in range(2)]

    proof = {"component": "db", "proven": True, "why": "its check answers as it did at the time of the backup"}
    assert (first[0], first[1]["value"]["proofs"]) == (0, [proof]), first[2]
    assert (again[0], undone) == (0, [(0, good), (0, good)]), again[2]
    assert bad != good
    assert restored == good
    assert twice == good
    record = manifest.read(server.folder(name)).components["db"]
    assert record.facts["server"].startswith("PostgreSQL 15.")
    assert record.facts["check"].splitlines() == [
        "shop orders.item 500", "shop orders.kept 1", "shop orders.one 1",
    ]  # fmt: skip
    assert server.password not in (server.folder(name) / "manifest.json").read_text()


KILLED = {
    "before the way back": ("http.client.send", '"postgres", "save"', False),
    "before it is loaded": ("subprocess.Popen", "'postgres', 'restore'", False),
    "before it is final": ("os.rename", "pre-restore-", True),
}


@pytest.mark.parametrize(
    "point", [name if name == "before it is final" else pytest.param(name, marks=pytest.mark.long) for name in KILLED]
)
def test_one_that_is_killed_is_taken_back_or_finished(server: Server, point: str) -> None:
    event, at, done = KILLED[point]
    good, name = state(server), server.backup()
    spoil(server)
    bad = state(server)

    with standing(server.stack, "backup.restore", name, "--force", event=event, at=at) as one:
        one.kill()
    code, _, said = server.invoke("backup.verify", name)
    found = state(server)
    again, _, heard = server.invoke("backup.restore", name, "--force")

    assert (code, again) == (0, 0), said + heard
    assert found == (good if done else bad)
    assert state(server) == good


def test_one_that_is_killed_while_its_program_loads_is_taken_back(server: Server) -> None:
    good, name = state(server), server.backup()
    spoil(server)
    bad = state(server)
    argv = ["docker", "exec", "-i", f"{server.stack.name}-db", *CLIENT, "shop"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        holder.stdin.write("BEGIN; SELECT count(*) FROM orders.item;\n")
        holder.stdin.flush()
        assert holder.stdout.readline() == "500\n"
        argv = server.stack.argv("backup.restore", name, "--force")
        with subprocess.Popen(
            argv, cwd=server.stack.folder, env=server.stack.environment(), stderr=subprocess.DEVNULL
        ) as one:
            while server.ask("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock';", "shop") == "0\n":
                assert one.poll() is None
            one.kill()

        code, _, said = server.invoke("backup.verify", name)
        holder.stdin.close()

    assert code == 0, said
    assert "was still running: it was stopped" in said
    assert state(server) == bad
    assert server.invoke("backup.restore", name, "--force")[0] == 0
    assert state(server) == good


def test_one_that_fails_at_the_end_is_taken_back(server: Server) -> None:
    good, name = state(server), server.backup()
    spoil(server)
    # A database with a subscription cannot be dropped.
    server.ask("CREATE SUBSCRIPTION held CONNECTION 'host=nowhere' PUBLICATION news WITH (connect = false);", "extra")
    bad = state(server)

    code, document, said = server.invoke("backup.restore", name, "--force")

    assert (code, document["error"]["code"]) == (4, "restore-taken-back"), said
    assert "subscription" in " ".join(document["error"]["evidence"])
    assert state(server) == bad
    server.ask("ALTER SUBSCRIPTION held SET (slot_name = NONE); DROP SUBSCRIPTION held;", "extra")
    assert server.invoke("backup.restore", name, "--force")[0] == 0
    assert state(server) == good


def test_a_dropped_database_comes_back_by_its_name_alone(server: Server) -> None:
    server.stack.replace("stack.yaml", "driver: postgres", "driver: postgres, database: shop, user: app")
    good, name = state(server), server.backup()
    server.ask("DROP DATABASE shop;", "postgres")
    gone = state(server)

    back = server.invoke("backup.restore", name, "--force")
    restored = state(server)
    undone = server.invoke("backup.undo", "--force")
    without = state(server)
    again = server.invoke("backup.undo", "--force")

    assert (back[0], undone[0], again[0]) == (0, 0, 0), back[2] + undone[2] + again[2]
    assert (restored, without, state(server)) == (good, gone, good)


def test_a_drill_loads_it_into_a_copy_that_is_gone_afterwards(server: Server) -> None:
    name = server.backup()

    code, done, said = server.invoke("backup.drill", name)

    results = {one["component"]: one["said"] for one in done["value"]["results"]}
    assert (code, done["value"]["proven"]) == (0, True), said
    assert results["db, loaded on trial"] == "its check answers as it did at the time of the backup"
    assert copies(server) == []


def test_a_drill_that_is_killed_leaves_no_copy(server: Server) -> None:
    name = server.backup()
    with standing(server.stack, "backup.drill", name, event="subprocess.Popen", at="ready") as one:
        one.kill()
    [there] = copies(server)
    data = [one["Name"] for one in there["Mounts"] if one["Type"] == "volume"]

    code, _, said = server.invoke("backup.verify", name)

    volumes = [one["Name"] for one in server.engine.client.api.volumes()["Volumes"]]
    assert (code, copies(server)) == (0, []), said
    assert data
    assert [one for one in data if one in volumes] == []


def copies(server: Server) -> list[dict[str, Any]]:
    every = server.engine.client.api.containers(all=True)
    return [one for one in every if f"{server.stack.name}-dev-drill" in str(one["Labels"])]


def test_a_dump_of_a_later_server_is_refused(server: Server) -> None:
    name, before = server.backup(), state(server)
    forge(server.folder(name), says("db", "server", "PostgreSQL 99.1"))

    code, document, said = server.invoke("backup.restore", name, "--force")

    assert (code, document["error"]["code"]) == (2, "server-older"), said
    assert state(server) == before
