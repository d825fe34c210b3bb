"""Each of five services fails in each of eight ways, in an environment that is down and in one that is up."""

from __future__ import annotations

import signal
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from conche.engine import kept
from conche.errors import ConcheError, Interrupted, NotRestored, Partial, Restored
from tests.env.world import COMPOSE_SAYS, NEEDS, World, made, world

__all__ = ["world"]

FALLS = {"db": {"app", "edge", "exporter"}, "app": {"edge"}, "edge": set(), "exporter": set(), "sidecar": set()}

SAID = {
    "exit": "exited with 3: error: no licence",
    "loop": "keeps restarting: error: no licence",
    "hang": "was not healthy within 5 s",
    "unhealthy": "is unhealthy",
    "memory": "(OOM)",
    "image": "no such manifest",
    **COMPOSE_SAYS,
}


def missing(name: str, how: str) -> dict[str, Any]:
    """What is seen otherwise where an image has to be had first."""
    images = {f"{one}:1": f"id-{one}:1" for one in NEEDS}
    return {"images": {**images, f"{name}:1": None}} if how == "image" else {}


def see_reason(error: BaseException | None, name: str, how: str, down: set[str]) -> None:
    """See that it ended in part, and says first what is down and why, and what is up."""
    assert isinstance(error, Partial), error
    assert error.code == "brought-up-in-part"
    first = [error.message, *error.evidence][:5]
    assert any(SAID[how] in line and name in line for line in first), first
    assert {line.split()[1] for line in error.evidence if line.startswith("up: ")} == set(NEEDS) - down
    assert "--build" not in error.next_command


@pytest.mark.parametrize("how", SAID)
@pytest.mark.parametrize("name", NEEDS)
def test_what_does_not_need_a_service_that_fails_comes_up(world: World, name: str, how: str) -> None:
    world.behaves = {name: how}

    error = world.run(**missing(name, how))

    down = {name, *FALLS[name]}
    assert {one.service: one.health for one in world.there.values()} == dict.fromkeys(set(NEEDS) - down, "healthy")
    see_reason(error, name, how, down)


@pytest.mark.parametrize("how", SAID)
@pytest.mark.parametrize("name", NEEDS)
def test_what_is_replaced_and_fails_is_what_it_was_and_the_others_are_new(world: World, name: str, how: str) -> None:
    world.up(old=True)
    world.behaves = {name: how}

    error = world.run(**missing(name, how))

    down = {name, *FALLS[name]}
    assert {one.service for one in world.there.values() if one.id.endswith("-old")} == down
    assert {one.health for one in world.there.values()} == {"healthy"}
    see_reason(error, name, how, down)
    assert isinstance(error, Partial)
    assert len([line for line in error.evidence if line.startswith("as before: ")]) == len(down)


@pytest.mark.parametrize("how", [how for how in SAID if how != "image"])
@pytest.mark.parametrize("name", NEEDS)
def test_what_is_healthy_is_not_touched_by_a_neighbour_that_fails(world: World, name: str, how: str) -> None:
    world.up()
    del world.there[name]
    before = dict(world.there)
    world.behaves = {name: how}

    error = world.run()

    kept_on = {one: there for one, there in before.items() if name != "db" or one != "exporter"}
    assert {one: world.there[one] for one in kept_on} == kept_on
    assert isinstance(error, Partial)


@pytest.mark.parametrize("begun", [True, False], ids=["its follower was restarted", "its follower was not come to"])
def test_what_follows_a_service_starts_again_when_that_is_brought_back(
    world: World, monkeypatch: pytest.MonkeyPatch, begun: bool
) -> None:
    world.needs = {
        "db": {},
        "app": {"depends_on": {"db": {"condition": "service_started", "restart": True}}},
        "late": {"depends_on": {"app": {"condition": "service_started", "restart": True}}},
        "apart": {"depends_on": {"db": {"condition": "service_started"}}},
    }
    world.up()
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    world.there = {name: replace(one, created_at=moment, started_at=moment) for name, one in world.there.items()}
    world.there["db"] = replace(world.there["db"], config_hash="old")
    world.behaves = {"db": "exit" if begun else "port"}

    def made_again(_: object, __: str, name: str) -> None:
        """As the engine does it: another container of the same definition."""
        world.there[name] = replace(world.before.pop(name), id="again", created_at=moment + timedelta(minutes=1))

    monkeypatch.setattr(kept, "bring_back", made_again)

    error = world.run()

    assert isinstance(error, Partial)
    assert world.there["db"].config_hash == "old"
    assert world.restarted == [*(("app", "late") if begun else ()), "app", "late"]
    assert world.said.index("unwinding: bring db back as it was") < world.said.index(
        "unwinding: restart what follows db"
    )


def test_where_nothing_comes_up_nothing_stays_and_every_reason_is_told(world: World) -> None:
    world.behaves = dict.fromkeys(NEEDS, "exit")

    error = world.run()

    assert isinstance(error, Restored)
    assert (error.code, world.there) == ("start-failed", {})
    assert "db exited with 3: error: no licence" in error.message


def test_a_second_failure_while_the_first_is_explained_is_told_too(world: World) -> None:
    world.behaves = {"edge": "exit"}
    world.meanwhile = lambda: world.there.update(sidecar=made("sidecar", "unhealthy", "x"))

    error = world.run()

    assert isinstance(error, Partial)
    assert error.message == "dev is up, but for edge and sidecar."
    assert error.evidence[1].startswith("not up: sidecar is unhealthy")
    assert set(world.there) == {"db", "app", "exporter"}


def test_what_cannot_be_started_because_another_has_failed_is_no_reason_of_its_own(world: World) -> None:
    world.behaves = {"db": "exit", "exporter": "port"}

    error = world.run()

    assert isinstance(error, Partial)
    assert "not up: exporter, which needs db" in error.evidence


def test_time_in_which_a_failure_is_explained_is_not_taken_from_the_others(world: World) -> None:
    world.behaves = {"edge": "exit", "sidecar": "hang"}

    def late() -> None:
        world.pause(500)
        world.there["sidecar"] = made("sidecar", "well", "x")

    world.meanwhile = late

    error = world.run()

    assert isinstance(error, Partial)
    assert error.message == "dev is up, but for edge."


def test_an_interruption_takes_everything_back(world: World) -> None:
    world.behaves = {"sidecar": "exit"}

    def interrupted() -> None:
        raise Interrupted(signal.SIGINT)

    world.meanwhile = interrupted

    assert isinstance(world.run(), Interrupted)
    assert world.there == {}


def test_a_service_that_cannot_be_brought_back_is_said_with_the_reason(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.up(old=True)
    world.behaves = {"sidecar": "exit"}

    def refused(*_: object) -> None:
        world.pause(20)
        raise ConcheError("engine-refused", "The engine refused a request.")

    monkeypatch.setattr(kept, "bring_back", refused)

    error = world.run()

    assert isinstance(error, NotRestored)
    assert error.evidence[0] == "could not bring sidecar back as it was: The engine refused a request."
    assert any("no licence" in line for line in error.evidence)
    assert world.there["app"].id != "app-old"
