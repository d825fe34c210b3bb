"""Which containers may be stopped for a restore, and which have run since before it: decisions over values."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from conche.backup import users
from conche.backup.users import User
from conche.engine.connection import Engine
from conche.engine.containers import Container
from conche.engine.task_containers import SERVICE
from conche.errors import Refused

RUNNING = Container("c" * 64, "shop-db-1", "shop", "db", "running", "none", "db:1", "sha256:1", "h")


def running(**changes: object) -> dict[str, User]:
    one = replace(RUNNING, **changes)  # type: ignore[arg-type]
    return {one.id: User(None, Engine(), one)}


def test_one_that_stops_and_starts_again_is_fine() -> None:
    users.require_stoppable(running())
    users.require_stoppable({})


@pytest.mark.parametrize(
    ("changes", "code", "next_command"),
    [
        ({"labels": {SERVICE: "shop_db"}}, "restore-under-swarm", "docker service scale shop_db=0"),
        ({"goes_when_stopped": True}, "restore-would-remove", "docker stop shop-db-1"),
    ],
)
def test_one_that_would_not_come_back_is_refused_by_name(
    changes: dict[str, object], code: str, next_command: str
) -> None:
    with pytest.raises(Refused) as caught:
        users.require_stoppable(running(**changes))

    assert caught.value.code == code
    assert "shop-db-1" in caught.value.message
    assert caught.value.next_command.startswith(next_command)


def test_who_has_run_since_before_a_restore_is_told_by_its_number() -> None:
    restored = datetime(2026, 11, 27, 2, 0, 0, 500_000, tzinfo=UTC)
    number = f"{restored:%Y%m%dT%H%M%S%f}"

    def since(started: datetime | None) -> list[str]:
        return users.since(running(started_at=started), number)

    assert since(restored - timedelta(microseconds=1)) == ["shop-db-1"]
    assert since(restored + timedelta(seconds=3)) == []
    assert since(None) == []
