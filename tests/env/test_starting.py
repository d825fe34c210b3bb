"""Services that env.up starts together: with one call of Compose, and each with an end of its own."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from conche.env.starting import TOGETHER
from conche.errors import Interrupted, Partial
from conche.outcome import Action, Kind, Plan, Step
from tests.env.world import World, made, world

__all__ = ["world"]

HEALTHY = {"condition": "service_healthy"}


def waves(*sizes: int, condition: str = "service_healthy") -> dict[str, dict[str, Any]]:
    """Services in waves, a1 a2 … b1 b2 …, each of which depends on all of the wave before."""
    names = [[f"{chr(ord('a') + number)}{one}" for one in range(1, size + 1)] for number, size in enumerate(sizes)]
    before: list[list[str]] = [[], *names]
    return {
        name: {"depends_on": {one: {"condition": condition} for one in above}} if above else {}
        for above, wave in zip(before, names, strict=False)
        for name in wave
    }


@pytest.mark.parametrize("size", [2, 5, TOGETHER])
def test_a_wave_costs_the_same_tools_whatever_its_size(world: World, size: int) -> None:
    world.needs = waves(size, size, size)

    assert world.run() is None

    assert [len(names) for names in world.calls] == [size, size, size]
    assert len(world.starts) == 5  # a dry run for each wave that depends on others, and a start for each
    assert {one.health for one in world.there.values()} == {"healthy"}
    assert len(world.there) == 3 * size


def test_no_more_start_together_than_a_signal_may_wait_for(world: World) -> None:
    world.needs = waves(2 * TOGETHER + 1)

    assert world.run() is None

    assert [len(names) for names in world.calls] == [TOGETHER, TOGETHER, 1]


def test_what_depends_on_others_only_to_be_started_does_not_wait_for_their_health(world: World) -> None:
    world.needs = waves(2, 2, condition="service_started")
    world.slow = {"a1": 3.0}

    assert world.run() is None

    assert [line for line in world.said if line.startswith("waiting")] == ["waiting until a1, a2, b1, b2 are healthy"]


def test_a_service_starts_once_what_itself_depends_on_works(world: World) -> None:
    world.needs = {
        "a1": {}, "a2": {}, "b1": {"depends_on": {"a1": HEALTHY}}, "b2": {"depends_on": {"a2": HEALTHY}},
        "c2": {"depends_on": {"b2": HEALTHY}},
    }  # fmt: skip
    world.slow = {"a1": 4.0}

    assert world.run() is None

    assert world.calls == [["a1", "a2"], ["b2"], ["c2"], ["b1"]]


def test_a_service_does_not_start_beside_what_it_depends_on_by_way_of_another(world: World) -> None:
    world.needs = {"a": {}, "b": {"depends_on": {"a": HEALTHY}}, "c": {"depends_on": {"b": HEALTHY}}}
    world.there = {"b": made("b", "well", "b-old")}

    assert world.run() is None

    assert world.calls == [["a"], ["c"]]


@pytest.mark.parametrize("how", ["port", "secret"])
@pytest.mark.parametrize("place", [1, 2, 4])
def test_the_one_that_cannot_be_started_is_named_and_its_neighbours_are_up(world: World, how: str, place: int) -> None:
    world.needs = waves(2, 4)
    world.behaves = {f"b{place}": how}

    error = world.run()

    assert isinstance(error, Partial)
    assert error.message == f"dev is up, but for b{place}."
    assert error.evidence[0].startswith(f"not up: b{place}: Compose could not start b{place}: ")
    assert set(world.there) == set(world.needs) - {f"b{place}"}
    assert world.made == 5, "a neighbour was started twice"


def test_one_that_has_ended_by_itself_is_not_started_again_for_a_neighbour(world: World) -> None:
    world.needs = waves(2)
    world.behaves = {"a1": "exit", "a2": "port"}

    error = world.run()

    assert error is not None
    assert world.calls == [["a1", "a2"], ["a2"]]


def test_several_that_are_ill_are_each_named_with_their_reason(world: World) -> None:
    world.needs = waves(4, 2)
    world.behaves = {"a2": "exit", "a3": "unhealthy"}

    error = world.run()

    assert isinstance(error, Partial)
    assert error.message == "dev is up, but for a2, a3, b1 and b2."
    assert set(world.there) == {"a1", "a4"}


def test_what_the_engine_makes_after_compose_has_ended_is_what_is_started(world: World) -> None:
    world.needs = waves(4)
    world.behaves = {"a1": "secret"}
    world.landing = {"a2": 2.0, "a4": 3.0}

    error = world.run()

    assert isinstance(error, Partial)
    assert error.message == "dev is up, but for a1."
    assert {name: one.health for name, one in world.there.items()} == dict.fromkeys(("a2", "a3", "a4"), "healthy")


def test_a_name_that_stays_taken_is_the_failure_of_its_service_alone(world: World) -> None:
    world.needs = waves(3)
    world.landing = {"a2": 1e9}

    error = world.run()

    assert isinstance(error, Partial)
    assert "is already in use by container" in error.evidence[0]
    assert set(world.there) == {"a1", "a3"}


def test_what_the_engine_makes_for_a_service_that_has_fallen_is_removed(world: World) -> None:
    world.needs = {"app": {}, "edge": {}, "other": {}}
    world.behaves = {"app": "secret"}
    world.landing = {"edge": 2.0}

    error = world.run()

    assert isinstance(error, Partial)
    assert error.message == "dev is up, but for app and edge."
    assert (set(world.there), world.landing) == ({"other"}, {})


def test_what_the_engine_makes_after_an_interruption_is_removed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.needs = waves(3)
    world.behaves = {"a1": "secret"}
    world.landing = {"a3": 2.0}
    make = world.make

    def interrupted(*words: Any, **given: Any) -> None:
        make(*words, **given)
        raise Interrupted(signal.SIGINT)

    monkeypatch.setattr(world, "make", interrupted)

    assert isinstance(world.run(), Interrupted)
    assert (world.there, world.landing) == ({}, {})


@pytest.mark.parametrize(
    "would",
    [{"p-a2-1": {"Recreate", "Recreated"}}, {"p-a1-1": None}],
    ids=["a dependency would be made anew", "nothing is said of a dependency"],
)
def test_where_compose_may_touch_a_dependency_each_is_started_by_itself(
    world: World, would: dict[str, set[str] | None]
) -> None:
    world.needs = waves(2, 3)
    world.would = would

    assert world.run() is None

    assert world.calls == [["a1", "a2"], ["b1"], ["b2"], ["b3"]]


def test_a_stopped_service_of_another_definition_is_started_by_itself(world: World) -> None:
    world.needs = waves(4)
    world.up()
    world.there = {name: made(name, "exit", f"{name}-old") for name in world.needs}
    world.there["a2"] = made("a2", "exit", "a2-old", config_hash="old")

    assert world.run() is None

    assert world.calls == [["a1"], ["a2"], ["a3", "a4"]]


def test_a_service_has_the_time_that_its_own_dependents_give_it(world: World) -> None:
    """What waits for one whose healthcheck allows little does not wait as long as for one that may take its time."""
    patient = {"interval": 100.0, "timeout": 10.0, "retries": 3, "start_period": 0.0}
    hasty = {"interval": 1.0, "timeout": 1.0, "retries": 2, "start_period": 0.0}
    world.needs = {
        "a1": {"healthcheck": patient}, "a2": {"healthcheck": hasty},
        "b1": {"depends_on": {"a1": HEALTHY}}, "b2": {"depends_on": {"a2": HEALTHY}},
    }  # fmt: skip
    world.timeout = None
    world.slow = {"a1": 50.0, "a2": 1e9}

    error = world.run()

    assert isinstance(error, Partial)
    assert error.message == "dev is up, but for a2 and b2."
    assert error.evidence[0].startswith("not up: a2 was not healthy within 4 s")
    assert 50 <= world.now < 60


def test_services_are_restarted_together_after_what_they_depend_on(world: World) -> None:
    world.needs = waves(2, 3)
    world.up()
    names = [*world.needs]

    steps = [Step(Action.RESTART, Kind.SERVICE, name, "asked for") for name in names]
    assert world.run(Plan(tuple(steps))) is None

    assert set(world.restarted[:2]) == {"a1", "a2"}
    assert sorted(world.restarted) == names
