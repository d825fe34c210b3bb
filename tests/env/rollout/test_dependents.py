"""What env.recover restarts, since it follows a service that a killed release had replaced."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from conche.command import Invocation
from conche.engine import containers
from conche.engine.compose import Compose, Configuration
from conche.engine.connection import Engine
from conche.engine.containers import Container
from conche.engine.service import Service
from conche.env import trial
from conche.env.rollout import recover
from conche.env.rollout.dependents import followers, restart_followers
from conche.env.rollout.look import Look
from conche.env.rollout.recover import plan_recovery, settle
from conche.output import Output
from conche.release.records import Placed, Record, Records
from conche.stack import Deploy
from tests.env.rollout.test_plan import container, record

FOLLOWS = {"store": {"condition": "service_started", "restart": True}}
BODIES: dict[str, Any] = {name: {"depends_on": FOLLOWS} for name in ("web", "edge")}


@pytest.mark.parametrize(("state", "restarted"), [("running", ["web"]), ("exited", [])])
def test_what_runs_is_restarted_and_what_has_ended_stays_so(
    monkeypatch: pytest.MonkeyPatch, state: str, restarted: list[str]
) -> None:
    found = (container("store", made_from="another"), container("web", state=state))

    plan = plan_recovery(killed(), seen(monkeypatch, found)).plan

    assert [step.name for step in plan if step.action == "recreate"] == ["store"]
    assert [step.name for step in plan if step.action == "restart"] == restarted


@pytest.mark.parametrize(
    ("web", "third", "restarted"),
    [(0, 0, ["web", "third"]), (20, 0, ["third"]), (20, 5, ["third"]), (20, 30, []), (None, None, [])],
    ids=["killed-after-the-store", "killed-after-its-follower", "also-later", "done", "not-known"],
)
def test_a_restart_that_a_killed_recovery_owes_is_made_up_for(
    monkeypatch: pytest.MonkeyPatch, web: float | None, third: float | None, restarted: list[str]
) -> None:
    store = replace(container("store"), created_at=at(10), started_at=at(11))
    found = (started("third", third), store, started("web", web), started("apart", 0))

    plan = plan_recovery(killed(), seen(monkeypatch, found)).plan

    assert [(str(step), step.cause) for step in plan if step.action in ("recreate", "restart")] == [
        (f"restart service {name}", "follows store, which was recreated") for name in restarted
    ]


def test_before_a_new_release_only_what_a_killed_recovery_owes_is_restarted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The store is as the killed release has it, so the new release replaces it and restarts what follows it."""
    cache = replace(container("cache"), created_at=at(10), started_at=at(11))
    late = replace(container("late"), created_at=at(-100), started_at=at(0))
    look = seen(monkeypatch, (container("store", made_from="another"), started("web", 0), cache, late))
    restarted: list[str] = []
    monkeypatch.setattr(containers, "restart", lambda _, one: restarted.append(one.service))
    monkeypatch.setattr(recover, "open_records", lambda *_: None)
    monkeypatch.setattr(trial, "remove", lambda _: None)
    records = killed()
    monkeypatch.setattr(records, "end", lambda *_: None, raising=False)

    settle(Invocation(Path("/nowhere"), Output("env.deploy", stderr=io.StringIO())), records, look)

    assert restarted == ["late"]


def test_nothing_is_restarted_for_what_users_would_be_cut_off_by() -> None:
    found = [started("web", 0), started("third", 0)]
    bodies = {"store": {}, "web": {"depends_on": FOLLOWS}, "third": {"depends_on": {"web": {"restart": True}}}}

    assert list(followers(bodies, found, {"store"}, ("web", "edge"))) == []


def test_what_is_taken_back_restarts_what_follows_it_and_so_on(monkeypatch: pytest.MonkeyPatch) -> None:
    again: list[str] = []
    monkeypatch.setattr(containers, "restart", lambda _, one: again.append(one.service))
    bodies = {"store": (), "web": ("store",), "third": ("web",), "late": ("web",), "apart": ()}
    services = {name: Service(name, "image", frozenset(), follows=follows) for name, follows in bodies.items()}
    look = seen(monkeypatch, [container(name) for name in services])

    restart_followers(look, Configuration("p", services, (), ()), {"web", "third", "apart"}, "store")

    assert again == ["web", "third"]


def at(second: float) -> datetime:
    return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=second)


def started(name: str, second: float | None) -> Container:
    moment = None if second is None else at(second)
    return replace(container(name), created_at=at(-100), started_at=moment)


def seen(monkeypatch: pytest.MonkeyPatch, found: Sequence[Container]) -> Look:
    """The environment with these containers; `third` follows `web`, which follows the store."""
    monkeypatch.setattr(containers, "one_off", lambda *_: ())
    monkeypatch.setattr(containers, "of_project", lambda _, project: tuple(found) if project == "p" else ())
    third = {"depends_on": {"web": {"condition": "service_started", "restart": True}}}
    late = {"depends_on": {"cache": {"condition": "service_started", "restart": True}}}
    bodies = {"cache": {}, "late": late, "apart": {"depends_on": {"store": {}}}, "store": {}, "third": third, **BODIES}
    return Look("prod", Compose(Engine(), "p", ()), Deploy(), {"services": bodies})


def killed() -> Records:
    """The records of a release that was killed after it had replaced the store."""
    before = record(1)
    store: Placed = replace(before.services["store"], definition="new", hashes=("another",))
    unfinished: Record = replace(record(2), services={**before.services, "store": store})
    return cast(
        "Records",
        SimpleNamespace(current=before, unfinished=unfinished, scaling=None, maintained=False, handover=lambda _: ()),
    )
