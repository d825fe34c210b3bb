"""The judgement over a container, and waiting for it to be final."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from conche.engine import containers
from conche.engine.connection import Engine
from conche.engine.containers import Container
from conche.engine.health import POLL, STEADY, Verdict, deadline, falls_over, judge, wait
from conche.engine.rendered import Healthcheck
from conche.engine.service import Service

RUNNING = Container(
    id="1", name="web", project="p", service="web", state="running", health="none", image="i", image_id="x",
    config_hash="h",
)  # fmt: skip
CHECKED = Service(
    "web", "i", frozenset("h"), healthcheck=Healthcheck(interval=5, timeout=2, retries=3, start_period=10)
)
UNCHECKED = Service("web", "i", frozenset("h"))
ONE_SHOT = replace(UNCHECKED, ends=True)
AWAITED = replace(UNCHECKED, completes=True)
KILLED = "was killed for lack of memory (OOM)"
AGAIN = {"restart_policy": "on-failure"}
NOWHERE = Engine("unix:///nowhere")


@pytest.mark.parametrize(
    ("changes", "service", "ran_for", "verdict", "reason"),
    [
        ({"health": "healthy"}, CHECKED, 0.0, Verdict.HEALTHY, ""),
        ({"health": "starting"}, CHECKED, 99.0, Verdict.WAITING, ""),
        ({"health": "starting"}, UNCHECKED, 99.0, Verdict.WAITING, ""),
        ({"health": "unhealthy"}, CHECKED, 1.0, Verdict.FAILED, "is unhealthy"),
        ({}, UNCHECKED, 1.0, Verdict.WAITING, ""),
        ({}, UNCHECKED, 3.0, Verdict.HEALTHY, ""),
        ({}, AWAITED, 9.0, Verdict.WAITING, ""),
        ({"state": "created"}, UNCHECKED, 9.0, Verdict.WAITING, ""),
        ({"state": "exited", "exit_code": 0}, UNCHECKED, 1.0, Verdict.FAILED, "exited with 0"),
        ({"state": "exited", "exit_code": 0}, ONE_SHOT, 1.0, Verdict.HEALTHY, ""),
        ({"state": "exited", "exit_code": 0}, AWAITED, 1.0, Verdict.HEALTHY, ""),
        ({"health": "unhealthy"}, AWAITED, 99.0, Verdict.WAITING, ""),
        ({"state": "exited", "exit_code": 3}, ONE_SHOT, 1.0, Verdict.FAILED, "exited with 3"),
        ({"state": "dead", "exit_code": 137}, CHECKED, 1.0, Verdict.FAILED, "exited with 137"),
        ({"state": "restarting", "exit_code": 1}, CHECKED, 1.0, Verdict.FAILED, "keeps restarting, exit code 1"),
        ({"state": "restarting", "exit_code": 1, "restarts": 2, **AGAIN}, AWAITED, 1.0, Verdict.WAITING, ""),
        ({"state": "running", "restarts": 2, **AGAIN}, AWAITED, 9.0, Verdict.WAITING, ""),
        ({"state": "exited", "exit_code": 0, "restarts": 2, **AGAIN}, AWAITED, 1.0, Verdict.HEALTHY, ""),
        ({"state": "exited", "exit_code": 1, "restarts": 5, **AGAIN}, AWAITED, 1.0, Verdict.FAILED, "exited with 1"),
        ({"state": "restarting", "restarts": 2}, AWAITED, 1.0, Verdict.FAILED, "keeps restarting"),
        ({"restarts": 1, "health": "healthy"}, CHECKED, 1.0, Verdict.FAILED, "keeps restarting"),
        ({"state": "exited", "exit_code": 137, "oom_killed": True}, CHECKED, 1.0, Verdict.FAILED, KILLED),
    ],
)
def test_a_look_at_a_container_gives_one_verdict(
    changes: dict[str, object], service: Service, ran_for: float, verdict: Verdict, reason: str
) -> None:
    container = replace(RUNNING, **changes)  # type: ignore[arg-type]

    assert judge(container, service, ran_for=ran_for) == (verdict, reason)


def test_restarts_from_before_the_wait_do_not_count() -> None:
    often = replace(RUNNING, restarts=7, health="healthy")

    assert judge(often, CHECKED, ran_for=0, restarts_before=7) == (Verdict.HEALTHY, "")


NOW = datetime(2026, 11, 27, tzinfo=UTC)


@pytest.mark.parametrize(
    ("changes", "ran", "falls"),
    [
        ({"state": "restarting"}, 0, True),
        ({"restarts": 1, "health": "starting"}, 500, True),
        ({"restarts": 1, "health": "healthy"}, 1, False),
        ({"restarts": 1}, STEADY - 1, True),
        ({"restarts": 1}, STEADY, False),
        ({"restarts": 1}, -60, False),
        ({"health": "starting"}, 1, False),
        ({"state": "exited", "restarts": 1}, 1, False),
    ],
)
def test_what_the_engine_has_started_again_falls_over_until_it_has_worked(
    changes: dict[str, object], ran: float, falls: bool
) -> None:
    container = replace(RUNNING, started_at=NOW - timedelta(seconds=ran), **changes)  # type: ignore[arg-type]

    assert falls_over(container, NOW) is falls


def test_every_restart_of_what_was_started_just_now_counts() -> None:
    clock = Clock()
    often = replace(RUNNING, restarts=2, health="healthy")

    ended = [
        wait(NOWHERE, lambda: [often], {"web": CHECKED}, restarts=before, clock=clock, pause=clock.pause).services
        for before in ({}, {"1": 2}, None)
    ]

    assert ended == [{"web": "keeps restarting"}, {}, {}]


def test_a_wait_that_goes_on_has_the_time_that_is_left() -> None:
    clock = Clock()
    clock.pause(100)

    ended = wait(
        NOWHERE, lambda: [replace(RUNNING, state="created")], {"web": CHECKED},
        begun=80.0, clock=clock, pause=clock.pause,
    )  # fmt: skip

    assert ended.failed == {"web": "was not healthy within 31 s"}
    assert clock.now == pytest.approx(111, abs=2 * POLL)


def test_the_deadline_is_the_longest_that_a_healthcheck_allows() -> None:
    longer = replace(CHECKED, healthcheck=Healthcheck(interval=30, timeout=10, retries=3, start_period=40))

    assert deadline([CHECKED, longer, UNCHECKED]) == 40 + 3 * (30 + 10)
    assert deadline([UNCHECKED]) == 30


class Clock:
    """Time that passes only when somebody pauses."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        self.now += seconds


def test_waiting_ends_as_soon_as_everything_is_healthy() -> None:
    clock = Clock()
    looks: list[Sequence[Container]] = [
        [replace(RUNNING, state="created")],
        [replace(RUNNING, state="created")],
        [replace(RUNNING, health="healthy")],
    ]

    ended = wait(NOWHERE, lambda: looks.pop(0), {"web": CHECKED}, clock=clock, pause=clock.pause)

    assert (ended.failed, looks, clock.now) == ({}, [], 2 * POLL)


def test_waiting_ends_with_the_first_failure() -> None:
    clock = Clock()
    other = replace(RUNNING, id="2", name="db", service="db", state="exited", exit_code=1)

    services = {"web": CHECKED, "db": replace(UNCHECKED, name="db")}
    pair = [replace(RUNNING, state="created"), other]

    ended = wait(NOWHERE, lambda: pair, services, clock=clock, pause=clock.pause)

    assert ended.failed == {"db": "exited with 1"}
    assert clock.now == 0


def test_waiting_ends_at_the_deadline_and_names_what_is_late() -> None:
    clock = Clock()

    ended = wait(NOWHERE, lambda: [replace(RUNNING, state="created")], {"web": CHECKED}, clock=clock, pause=clock.pause)

    assert ended.failed == {"web": "was not healthy within 31 s"}
    assert clock.now == pytest.approx(31, abs=POLL)


def test_a_timeout_of_zero_still_looks_once() -> None:
    clock = Clock()

    ended = wait(
        NOWHERE,
        lambda: [replace(RUNNING, health="healthy")],
        {"web": CHECKED},
        timeout=0,
        clock=clock,
        pause=clock.pause,
    )

    assert ended.failed == {}


def test_a_service_without_a_container_has_failed() -> None:
    clock = Clock()

    ended = wait(NOWHERE, list, {"web": CHECKED}, clock=clock, pause=clock.pause)

    assert ended.failed == {"web": "has no container"}


def test_waiting_ends_as_soon_as_one_group_works() -> None:
    clock = Clock()
    names = ("a", "b", "c")
    services = {name: replace(CHECKED, name=name) for name in names}
    slow = {"b": 5.0, "c": 9.0}

    def look() -> list[Container]:
        return [
            replace(RUNNING, id=name, name=name, service=name, health=health)
            for name in names
            for health in ["healthy" if clock.now >= slow.get(name, 0.0) else "starting"]
        ]

    ended = wait(NOWHERE, look, services, groups=[["a", "c"], ["a", "b"]], clock=clock, pause=clock.pause)

    assert ended.failed == {}
    assert ended.working == {"a", "b"}
    assert clock.now == pytest.approx(5, abs=2 * POLL)


def test_each_service_has_the_time_of_the_groups_it_is_in() -> None:
    clock = Clock()
    hasty = replace(CHECKED, name="hasty", healthcheck=Healthcheck(interval=1, timeout=1, retries=2, start_period=0))
    pair = [replace(RUNNING, id=name, name=name, service=name, health="starting") for name in ("web", "hasty")]
    services = {"web": CHECKED, "hasty": hasty}

    ended = wait(NOWHERE, lambda: pair, services, groups=[["web"], ["hasty"]], clock=clock, pause=clock.pause)
    together = wait(NOWHERE, lambda: pair, services, clock=clock, pause=clock.pause)

    assert ended.failed == {"hasty": "was not healthy within 4 s"}
    assert together.failed == dict.fromkeys(services, "was not healthy within 31 s")


def test_what_has_passed_is_asked_again_only_in_the_last_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    asked: list[tuple[str, float]] = []

    def passes(_: Engine, one: Container) -> bool:
        asked.append((one.id, clock.now))
        return one.id == "quick" or clock.now >= 3 * POLL

    monkeypatch.setattr(containers, "passes_healthcheck", passes)
    pair = [replace(RUNNING, id=name, name=name, service=name, health="starting") for name in ("quick", "slow")]
    services = {name: replace(CHECKED, name=name) for name in ("quick", "slow")}

    ended = wait(NOWHERE, lambda: pair, services, clock=clock, pause=clock.pause)

    assert ended.failed == {}
    assert ended.working == {"quick", "slow"}
    assert [moment for name, moment in asked if name == "quick"] == [0.0, clock.now]


def test_what_has_passed_and_does_not_any_more_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()

    def passes(_: Engine, one: Container) -> bool:
        return clock.now == 0 or clock.now >= 9 if one.id == "flaps" else clock.now >= 3

    monkeypatch.setattr(containers, "passes_healthcheck", passes)
    pair = [replace(RUNNING, id=name, name=name, service=name, health="starting") for name in ("flaps", "slow")]
    services = {name: replace(CHECKED, name=name) for name in ("flaps", "slow")}

    ended = wait(NOWHERE, lambda: pair, services, clock=clock, pause=clock.pause)

    assert ended.failed == {}
    assert clock.now == pytest.approx(9, abs=2 * POLL)
