"""An online restore of an InfluxDB, killed at its durable operations: the data are the old ones or the new ones."""

from __future__ import annotations

import signal
from datetime import UTC, datetime

import pytest

from conche.backup.influx import BEGINNING
from conche.engine.connection import Engine
from tests.backup.checkouts import Checkout
from tests.backup.databases import Database
from tests.faults.faulted import Server
from tests.stacks import SmallStack

pytestmark = pytest.mark.process


@pytest.mark.engine
@pytest.mark.parametrize("fault", ["before", pytest.param("after", marks=pytest.mark.long)])
def test_an_online_restore_killed_at_every_operation_is_whole_or_taken_back(
    server: Server, small: SmallStack, engine: Engine, fault: str
) -> None:
    # Of some sixty operations, each with a restore that takes a dump twice, every seventh; `nox -s long` takes all.
    stride = 1 if server.every else 7
    database = Database.create(small, engine)
    checkout = Checkout(small.folder, small.folder / "recovery.key")
    database.write("prices eur=1 1700000000\n")
    words = ("backup.restore", database.backup().name, "--force")
    database.write("prices eur=2 1700000100\n")
    assert server.run(checkout, *words) == 0, server.said
    first = 1 if stride == 1 or fault == "before" else 4
    code, at, seen = -signal.SIGKILL, first - stride, set()
    while code == -signal.SIGKILL:
        at += stride
        if counted(database) == 1:
            database.write("prices eur=2 1700000100\n")
        code = server.run(checkout, *words, at=at, fault=fault)
        assert code in (-signal.SIGKILL, 0), (at, code, server.said)
        assert server.run(checkout, "backup.verify") == 0, (at, server.said)
        assert counted(database) in (1, 2), at
        assert not list((checkout.folder / ".backup").glob("restore-*"))
        seen.add(counted(database))
    assert at > 25
    assert seen == {1, 2}


def counted(database: Database) -> int:
    return database.influx.counts("energy", BEGINNING, datetime(2030, 1, 1, tzinfo=UTC))["prices"]
