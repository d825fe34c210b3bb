"""Each of five services fails at its start in each of seven ways while it is released: all is as it was, and says why.

An image that cannot be had ends a release earlier: it is fetched before anything is locked.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Any, cast

import pytest

from conche.engine import health
from conche.engine.connection import Engine
from conche.env.rollout.look import NOTHING, Look
from conche.env.rollout.pipeline import ComposePipeline
from conche.env.rollout.unwinding import Before
from conche.errors import Restored
from conche.outcome import Action, Kind, Plan, Step
from conche.output import Progress
from conche.process import Captured, Completed
from conche.stack import Deploy
from tests.env.test_failing import SAID
from tests.env.world import NEEDS, FakeCompose, Said, World, made, world

__all__ = ["world"]

WAYS = [how for how in SAID if how != "image"]


class Earlier(FakeCompose):
    """Compose for the release that serves: what it is told to bring up, works."""

    def call(self, argv: Any, **_: Any) -> Completed:
        for name in [word for word in argv if word in NEEDS]:
            self.world.there[name] = made(name, "well", f"{name}-again", config_hash="old")
        return Completed(tuple(argv), 0, Captured(""), Captured(""))


def released(world: World, monkeypatch: pytest.MonkeyPatch, action: Action, names: Collection[str]) -> list[str]:
    """Release these services; what is committed, or raise why not."""
    composes = [one(Engine(), "p", ()) for one in (FakeCompose, Earlier)]
    for one in composes:
        object.__setattr__(one, "world", world)
    compose, earlier = composes
    waits = partial(health.wait, clock=lambda: world.now, pause=world.pause)
    monkeypatch.setattr(health, "wait", waits)
    done: list[str] = []
    standing = tuple(world.there.values())
    rolling = ComposePipeline(
        release="r2", before=Before("r1" if standing else NOTHING, standing, answered=False, networks=frozenset()),
        compose=compose, configuration=world.seen().configuration, previous=earlier, previous_port=8000,
        deploy=Deploy(), look=Look("dev", compose, Deploy(), {}), configure=cast("Any", None),
        begin=lambda: done.append("begun"), commit=lambda: done.append("committed"), counts={}, commanding="app",
        progress=cast("Progress", Said(world.said)), lock=None, begun=0.0, timeout=world.timeout,
    )  # fmt: skip
    record = Step(Action.RECORD, Kind.RELEASE, "r2", "before anything is changed")
    steps = [Step(action, Kind.SERVICE, name, "its definition changed") for name in names]
    try:
        rolling.carry_out(Plan((record, *steps, Step(Action.COMMIT, Kind.RELEASE, "r2", "it serves"))))
    finally:
        assert done[:1] == ["begun"]
        world.said.extend(rolling.warnings)
    return done


def see_reason(error: Restored, name: str, how: str) -> None:
    first = [error.message, *error.evidence][:5]
    assert any(name in line for line in first), first
    assert any(SAID[how].partition(": ")[0] in line or SAID[how] in line for line in first), first
    assert error.code in ("release-failed", "compose-up-failed")


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("name", NEEDS)
def test_a_first_release_leaves_nothing_of_itself(
    world: World, monkeypatch: pytest.MonkeyPatch, name: str, how: str
) -> None:
    world.behaves = {name: how}

    with pytest.raises(Restored) as failed:
        released(world, monkeypatch, Action.CREATE, NEEDS)

    assert world.there == {}
    see_reason(failed.value, name, how)


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("name", NEEDS)
def test_what_a_release_does_not_touch_serves_all_the_time_and_what_fails_is_what_it_was(
    world: World, monkeypatch: pytest.MonkeyPatch, name: str, how: str
) -> None:
    world.up(old=True)
    before = dict(world.there)
    world.behaves = {name: how}

    with pytest.raises(Restored) as failed:
        released(world, monkeypatch, Action.RECREATE, [name])

    assert {one: there for one, there in world.there.items() if one != name} == {
        one: there for one, there in before.items() if one != name
    }
    back = world.there[name]
    assert (back.config_hash, back.state, back.health) == ("old", "running", "healthy")
    see_reason(failed.value, name, how)


def test_where_all_of_it_works_it_is_committed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    assert released(world, monkeypatch, Action.CREATE, NEEDS) == ["begun", "committed"]
    assert {one.health for one in world.there.values()} == {"healthy"}
