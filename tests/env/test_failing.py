"""Each of five services fails in each of eight ways, in an environment that is down and in one that is up.

The engine and Compose are a small world in memory: what decides here is the order of things, not the engine.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from conche.engine import containers, kept, logs, networks
from conche.engine.compose import Compose, Configuration
from conche.engine.connection import Engine
from conche.engine.containers import Container
from conche.engine.rendered import Healthcheck
from conche.engine.service import Service
from conche.engine.transfer import PullFailed
from conche.env.apply import Applier
from conche.env.observe import Observed
from conche.env.plan import plan_up
from conche.errors import ConcheError, Interrupted, NotRestored, Partial, Restored
from conche.output import Progress
from conche.process import Captured, Completed

NEEDS: dict[str, dict[str, Any]] = {
    "db": {},
    "app": {"depends_on": {"db": {"condition": "service_healthy"}}},
    "edge": {},
    "exporter": {"network_mode": "service:db"},
    "sidecar": {},
}
FALLS = {"db": {"app", "edge", "exporter"}, "app": {"edge"}, "edge": set(), "exporter": set(), "sidecar": set()}
ROUTES = {"edge": "app"}

RUNS: dict[str, dict[str, object]] = {
    "well": {"state": "running", "health": "healthy"},
    "exit": {"state": "exited", "exit_code": 3},
    "loop": {"state": "running", "health": "starting", "restarts": 1},
    "hang": {"state": "running", "health": "starting"},
    "unhealthy": {"state": "running", "health": "unhealthy", "health_log": ("HTTP Error 500",)},
    "memory": {"state": "exited", "exit_code": 137, "oom_killed": True},
}
COMPOSE_SAYS = {
    "port": "Bind for 127.0.0.1:8086 failed: port is already allocated",
    "secret": 'invalid mount config for type "bind": bind source path does not exist',
}
SAID = {
    "exit": "exited with 3: error: no licence",
    "loop": "keeps restarting: error: no licence",
    "hang": "was not healthy within 5 s",
    "unhealthy": "is unhealthy",
    "memory": "(OOM)",
    "image": "no such manifest",
    **COMPOSE_SAYS,
}


def service(name: str) -> Service:
    needs = NEEDS[name]
    return Service(
        name, f"{name}:1", frozenset({"new"}), healthcheck=Healthcheck(),
        waits_for=tuple(needs.get("depends_on", {})), shares=("db",) if "network_mode" in needs else (),
        replicas=1,
    )  # fmt: skip


def made(name: str, how: str, identity: str, **changes: object) -> Container:
    plain = Container(identity, f"p-{name}-1", "p", name, "", "none", f"{name}:1", f"id-{name}:1", "new")
    return replace(plain, **{**RUNS[how], **changes})  # type: ignore[arg-type]


CONFIGURATION = Configuration("p", {name: service(name) for name in NEEDS}, (), (), {"services": NEEDS})


@dataclass
class World:
    """What runs, and how each service behaves when it is started next."""

    there: dict[str, Container] = field(default_factory=dict)
    behaves: dict[str, str] = field(default_factory=dict)
    before: dict[str, Container] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    now: float = 0.0
    made: int = 0
    meanwhile: Callable[[], object] = lambda: None

    def up(self, *, old: bool = False) -> None:
        """Have everything run, from an older definition where it is `old`."""
        changes = {"config_hash": "old"} if old else {}
        self.there = {name: made(name, "well", f"{name}-old", **changes) for name in NEEDS}

    def seen(self) -> Observed:
        return Observed(
            "dev", CONFIGURATION, tuple(self.there.values()), {f"{n}:1": f"id-{n}:1" for n in NEEDS}, (), (), {}
        )

    def make(self, argv: Sequence[str], **_: object) -> Completed:
        name, how = argv[-1], self.behaves.get(argv[-1], "well")
        words = COMPOSE_SAYS.get(how, "")
        if not words:
            self.made += 1
            self.there[name] = made(name, how, f"{name}-{self.made}")
        return Completed(tuple(argv), 1 if words else 0, Captured(""), Captured(words))

    def remove(self, _: Engine, identity: str) -> None:
        self.there = {name: one for name, one in self.there.items() if one.id != identity}

    def bring_back(self, _: Engine, __: str, name: str) -> None:
        self.there[name] = self.before.pop(name)

    def fetch(self, reference: str) -> None:
        if self.behaves.get(reference.removesuffix(":1")) == "image":
            raise PullFailed("pull-failed", f"{reference} cannot be had: no such manifest.")

    def pause(self, seconds: float) -> None:
        self.now += seconds

    def log(self, *_: object) -> tuple[tuple[datetime, str], ...]:
        self.meanwhile()
        return ((datetime.min.replace(tzinfo=UTC), "error: no licence"),)

    def run(self, **changes: Any) -> BaseException | None:
        """Bring it up; what came of it."""
        compose = FakeCompose(Engine(), "p", ())
        object.__setattr__(compose, "world", self)
        seen = replace(self.seen(), **changes)
        applier = Applier(
            compose, seen, cast("Progress", Said(self.said)), build=self.fetch, fetch=self.fetch, routes=ROUTES,
            url="http://localhost:8001/health", timeout=5.0, clock=lambda: self.now, pause=self.pause,
        )  # fmt: skip
        try:
            applier.apply(plan_up(seen))
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is looked at
            return error
        return None


@dataclass
class Said:
    """Progress that is kept."""

    lines: list[str]

    def step(self, text: str) -> None:
        self.lines.append(text)

    def detail(self, text: object) -> None: ...


class FakeCompose(Compose):
    world: World

    def make(self, argv: Sequence[str], **given: Any) -> Completed:
        return self.world.make(argv, **given)

    def up_would(self, *_: str, **__: bool) -> dict[str, set[str]]:
        return {}


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    here = World()
    monkeypatch.setattr(containers, "of_project", lambda *_: tuple(here.there.values()))
    monkeypatch.setattr(containers, "remove", here.remove)
    monkeypatch.setattr(containers, "read", lambda *_: None)
    monkeypatch.setattr(logs, "last_entries", here.log)
    monkeypatch.setattr(networks, "made_by", lambda *_: networks.Made((), ()))
    monkeypatch.setattr(networks, "remove_new", lambda *_: None)
    monkeypatch.setattr(kept, "keep", lambda _, one: here.before.update({one.service: one}))
    monkeypatch.setattr(kept, "bring_back", here.bring_back)
    monkeypatch.setattr(kept, "forget", lambda *_: None)
    return here


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
