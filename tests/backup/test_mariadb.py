"""A MariaDB server of Debian's packages, corrupted and restored, and compared with what it was."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from conche.backup import manifest
from conche.engine.connection import Engine
from tests.backup.servers import Server
from tests.stacks import SmallStack, free_port
from tests.standing import standing

pytestmark = pytest.mark.engine

SERVICE = """\
    command: [start-mariadb]
    environment: {MARIADB_ROOT_PASSWORD_FILE: /run/secrets/password}
    volumes: ["data:/var/lib/mysql"]
    healthcheck:
      {test: [CMD, mariadb-admin, -h, 127.0.0.1, ping], interval: 1s, timeout: 5s, retries: 60, start_period: 60s}"""

CLIENT = ("sh", "-euc", 'MYSQL_PWD="$(cat /run/secrets/password)" exec mariadb -uroot -N -B -r')

ALL = (
    "sh", "-euc",
    (
        'export MYSQL_PWD="$(cat /run/secrets/password)";'
        " exec mariadb-dump -uroot --skip-dump-date --routines --events --databases "
        "$(mariadb -uroot -N -e \"SELECT schema_name FROM information_schema.schemata"
        " WHERE schema_name NOT IN ('mysql', 'information_schema', 'performance_schema', 'sys') ORDER BY 1\")"
    ),
)  # fmt: skip

FILL = """\
USE shop;
CREATE TABLE shop.item (id INT PRIMARY KEY AUTO_INCREMENT, name TEXT, raw BLOB);
INSERT INTO shop.item (name, raw) SELECT CONCAT('good\\n''', seq), UNHEX('00FF27') FROM seq_1_to_300;
CREATE TABLE shop.line (item INT, FOREIGN KEY (item) REFERENCES shop.item (id)); INSERT INTO shop.line VALUES (1), (2);
CREATE VIEW shop.seen AS SELECT COUNT(*) FROM shop.item;
CREATE FUNCTION shop.twice(n INT) RETURNS INT DETERMINISTIC RETURN 2 * n;
CREATE TRIGGER shop.first BEFORE INSERT ON shop.line FOR EACH ROW SET NEW.item = NEW.item;
CREATE EVENT shop.nightly ON SCHEDULE EVERY 1 DAY DO DELETE FROM shop.line WHERE item IS NULL;
CREATE DATABASE `second-one`;
CREATE TABLE `second-one`.`odd ``table` (x INT, FOREIGN KEY (x) REFERENCES shop.item (id));
"""

SPOIL = """\
UPDATE shop.item SET name = 'bad'; DROP VIEW shop.seen; DROP FUNCTION shop.twice; DROP TRIGGER shop.first;
CREATE TABLE shop.later (x INT); DROP DATABASE `second-one`; CREATE DATABASE extra; CREATE TABLE extra.later (x INT);
INSERT INTO shop.line VALUES (3);
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, engine: Engine) -> Iterator[Server]:
    stack = SmallStack.create(tmp_path_factory.mktemp("mariadb") / "checkout", free_port())
    try:
        server = Server.create(stack, engine, SERVICE, "driver: mariadb", CLIENT)
        server.ask(FILL)
        yield server
    finally:
        stack.remove_all(engine)


@pytest.fixture
def server(made: Server) -> Iterator[Server]:
    """The same for every test, which may change its stack.yaml, and leaves behind what it found."""
    before = (made.stack.folder / "stack.yaml").read_text()
    yield made
    made.stack.write("stack.yaml", before)


def state(server: Server) -> str:
    """Everything that is in the server, by its own program."""
    return server.inside(*ALL)


def test_everything_comes_back_twice_and_what_was_there_comes_back_too(server: Server) -> None:
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
    assert (undone[0], again[0]) == (0, 0), undone[2] + again[2]
    assert bad != good
    assert (restored, spoilt, state(server)) == (good, bad, good)
    record = manifest.read(server.folder(name)).components["db"]
    assert record.facts["server"].startswith("MariaDB 10.11.")
    assert record.facts["check"].splitlines() == ["second-one.odd `table 0", "shop.item 300", "shop.line 2"]
    assert server.password not in (server.folder(name) / "manifest.json").read_text()


KILLED = {
    "before it is loaded": ("subprocess.Popen", "'mariadb', 'restore'", False),
    "before it is final": ("os.rename", "pre-restore-", True),
}


@pytest.mark.long
@pytest.mark.parametrize("point", KILLED)
def test_one_that_is_killed_is_taken_back_or_finished(server: Server, point: str) -> None:
    event, at, done = KILLED[point]
    good, name = state(server), server.backup()
    server.ask(SPOIL)
    bad = state(server)

    with standing(server.stack, "backup.restore", name, "--force", event=event, at=at) as one:
        one.kill()
    code, _, said = server.invoke("backup.verify", name)
    found = state(server)
    again, _, heard = server.invoke("backup.restore", name, "--force")

    assert (code, again) == (0, 0), said + heard
    assert found == (good if done else bad)
    assert state(server) == good


@pytest.mark.long
def test_one_that_breaks_off_half_way_is_taken_back(server: Server) -> None:
    """DDL knows no transaction here: what a client has done when it stops stays."""
    good, name = state(server), server.backup()
    server.ask(SPOIL)
    bad = state(server)
    # It is loaded last, and its files cannot be made.
    server.inside("sh", "-euc", "touch /var/lib/mysql/second@002done")

    code, document, said = server.invoke("backup.restore", name, "--force")

    server.inside("rm", "/var/lib/mysql/second@002done")
    assert (code, document["error"]["code"]) == (4, "restore-taken-back"), said
    assert state(server) == bad
    assert server.invoke("backup.restore", name, "--force")[0] == 0
    assert state(server) == good


def test_a_dropped_database_comes_back_by_its_name_alone(server: Server) -> None:
    server.stack.replace("stack.yaml", "driver: mariadb", "driver: mariadb, database: second-one")
    good, name = state(server), server.backup()
    server.ask("DROP DATABASE `second-one`")
    gone = state(server)

    back = server.invoke("backup.restore", name, "--force")
    restored = state(server)
    undone = server.invoke("backup.undo", "--force")
    without = state(server)
    again = server.invoke("backup.undo", "--force")

    assert (back[0], undone[0], again[0]) == (0, 0, 0), back[2] + undone[2] + again[2]
    assert (restored, without, state(server)) == (good, gone, good)


def test_a_drill_loads_it_into_a_copy(server: Server) -> None:
    name = server.backup()

    code, done, said = server.invoke("backup.drill", name)

    results = {one["component"]: one["said"] for one in done["value"]["results"]}
    assert (code, done["value"]["proven"]) == (0, True), said
    assert results["db, loaded on trial"] == "its check answers as it did at the time of the backup"
