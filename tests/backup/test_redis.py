"""A Redis server of Debian's packages, corrupted and restored, and compared with what it was."""

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

SERVICE = """\
    command:
      - sh
      - -euc
      - >-
        exec redis-server --dir /data --appendonly {append} --masteruser other
        --requirepass "$$(cat /run/secrets/password)"
    environment: {{REDIS_PASSWORD_FILE: /run/secrets/password}}
    volumes: ["data:/data"]
    healthcheck:
      {{test: [CMD, redis-cli, ping], interval: 1s, timeout: 5s, retries: 60, start_period: 60s}}"""

CLIENT = ("sh", "-euc", 'REDISCLI_AUTH="$(cat /run/secrets/password)" exec redis-cli --no-raw')

FILL = """\
FLUSHALL
FUNCTION FLUSH
SET good "one\\n\\x00\\xff"
SET soon gone EX 100000
SELECT 5
HSET hash field value
ZADD sorted 1.5 member
XADD stream 1-1 field value
FUNCTION LOAD "#!lua name=mine\\nredis.register_function('f', function() return 7 end)"
"""

SPOIL = """\
SET good bad
DEL soon
SET later 1
SELECT 5
FLUSHDB
FUNCTION FLUSH
SELECT 9
SET later 1
"""

LOOK = """\
INFO keyspace
GET good
EXISTS soon later
SELECT 5
HGETALL hash
ZRANGE sorted 0 -1 WITHSCORES
XRANGE stream - +
FUNCTION LIST
"""


@pytest.fixture(
    scope="module", params=[pytest.param("no", marks=pytest.mark.long), "yes"], ids=["snapshots", "append-only"]
)
def server(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest, engine: Engine
) -> Iterator[Server]:
    stack = SmallStack.create(tmp_path_factory.mktemp("redis") / "checkout", free_port())
    try:
        service = SERVICE.format(append=request.param)
        yield Server.create(stack, engine, service, "driver: redis", CLIENT)
    finally:
        stack.remove_all(engine)


def state(server: Server) -> list[str]:
    """What is in the server; how long keys live on changes."""
    return [line.partition(",avg_ttl")[0] for line in server.ask(LOOK).splitlines()]


def test_everything_comes_back_twice_and_outlives_the_server(server: Server) -> None:
    server.ask(FILL)
    good, name = state(server), server.backup()
    server.ask(SPOIL)
    bad = state(server)

    first = server.invoke("backup.restore", name, "--force")
    restored = state(server)
    undone = server.invoke("backup.undo", "--force")
    spoilt = state(server)
    again = server.invoke("backup.restore", name, "--force")
    for way in ("kill", "wait"):  # the engine answers before it knows that it has died
        subprocess.run(["docker", way, f"{server.stack.name}-db"], check=True, capture_output=True)
    server.stack.up()

    proof = {"component": "db", "proven": True, "why": "its check answers as it did at the time of the backup"}
    assert (first[0], first[1]["value"]["proofs"]) == (0, [proof]), first[2]
    assert (undone[0], again[0]) == (0, 0), undone[2] + again[2]
    assert bad != good
    assert (restored, spoilt, state(server)) == (good, bad, good)
    assert "role:master" in server.ask("INFO replication\n")
    record = manifest.read(server.folder(name)).components["db"]
    assert {"server": "Redis 7.0.15", "check": "db0 1\ndb5 3"}.items() <= record.facts.items()
    assert server.password not in (server.folder(name) / "manifest.json").read_text()


KILLED = {
    "before it is loaded": ("subprocess.Popen", "'redis', 'restore'", False),
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
    found = state(server)
    again, _, heard = server.invoke("backup.restore", name, "--force")

    assert (code, again) == (0, 0), said + heard
    assert found == (good if done else bad)
    assert state(server) == good


def test_a_drill_loads_it_into_a_copy(server: Server) -> None:
    server.ask(FILL)
    name = server.backup()

    code, done, said = server.invoke("backup.drill", name)

    results = {one["component"]: one["said"] for one in done["value"]["results"]}
    assert (code, done["value"]["proven"]) == (0, True), said
    assert results["db, loaded on trial"] == "its check answers as it did at the time of the backup"
