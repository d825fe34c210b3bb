"""A small world in memory in the place of the engine and Compose: what decides in it is the order of things."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
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
from conche.outcome import Plan
from conche.output import Progress
from conche.process import Captured, Completed

NEEDS: dict[str, dict[str, Any]] = {
    "db": {},
    "app": {"depends_on": {"db": {"condition": "service_healthy"}}},
    "edge": {},
    "exporter": {"network_mode": "service:db", "depends_on": {"db": {"condition": "service_started"}}},
    "sidecar": {},
}
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


def service(name: str, body: Mapping[str, Any]) -> Service:
    return Service(
        name, f"{name}:1", frozenset({"new"}), healthcheck=Healthcheck(**body.get("healthcheck", {})),
        waits_for=tuple(one for one, how in body.get("depends_on", {}).items() if "healthy" in how["condition"]),
        shares=("db",) if "network_mode" in body else (),
        follows=tuple(one for one, how in body.get("depends_on", {}).items() if how.get("restart")),
        replicas=1,
    )  # fmt: skip


def made(name: str, how: str, identity: str, **changes: object) -> Container:
    plain = Container(identity, f"p-{name}-1", "p", name, "", "none", f"{name}:1", f"id-{name}:1", "new")
    return replace(plain, **{**RUNS[how], **changes})  # type: ignore[arg-type]


@dataclass
class World:
    """What runs, and how each service behaves when it is started next.

    Attributes:
        needs: the services, each with its definition.
        slow: service -> seconds from its start until it works.
        landing: service -> seconds until its container appears, where Compose has dropped its request for it.
        would: container -> what a dry run says of it otherwise; None if it says nothing.
        calls: the services of each call of Compose that makes containers.
        starts: the tools that were started.
    """

    needs: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: NEEDS)
    slow: dict[str, float] = field(default_factory=dict)
    landing: dict[str, float] = field(default_factory=dict)
    would: dict[str, set[str] | None] = field(default_factory=dict)
    timeout: float | None = 5.0
    there: dict[str, Container] = field(default_factory=dict)
    behaves: dict[str, str] = field(default_factory=dict)
    before: dict[str, Container] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    now: float = 0.0
    made: int = 0
    calls: list[list[str]] = field(default_factory=list)
    starts: list[tuple[str, ...]] = field(default_factory=list)
    restarted: list[str] = field(default_factory=list)
    meanwhile: Callable[[], object] = lambda: None

    def up(self, *, old: bool = False) -> None:
        """Have everything run, from an older definition where it is `old`."""
        changes = {"config_hash": "old"} if old else {}
        self.there = {name: made(name, "well", f"{name}-old", **changes) for name in self.needs}

    def seen(self) -> Observed:
        services = {name: service(name, body) for name, body in self.needs.items()}
        configuration = Configuration("p", services, (), (), {"services": self.needs})
        images = {f"{name}:1": f"id-{name}:1" for name in self.needs}
        return Observed("dev", configuration, tuple(self.there.values()), images, (), (), {})

    def look(self, *_: object) -> tuple[Container, ...]:
        """Return what is there now."""
        for name in [name for name, moment in self.landing.items() if self.calls and self.now >= moment]:
            del self.landing[name]
            self.there[name] = replace(made(name, "well", f"{name}-late"), state="created")
        ready = {name for name, moment in self.slow.items() if self.now >= moment}
        return tuple(replace(one, health="healthy") if one.service in ready else one for one in self.there.values())

    def make(self, argv: Sequence[str], **_: object) -> Completed:
        """Start what the argv names, up to the first that cannot be started: Compose drops the others then."""
        names = [word for part in argv for word in part.split() if word in self.needs]
        self.calls.append(names)
        self.starts.append(tuple(argv))
        for name in names:
            words = COMPOSE_SAYS.get(self.behaves.get(name, "well"), "")
            if not words and name in self.landing:
                words = f'Conflict. The container name "/p-{name}-1" is already in use by container "{name}-late".'
            if words:
                return Completed(tuple(argv), 1, Captured(""), Captured(words))
            self._start(name)
        return Completed(tuple(argv), 0, Captured(""), Captured(""))

    def _start(self, name: str) -> None:
        there = self.there.get(name)
        if there is not None and there.state == "running" and there.config_hash == "new":
            return
        self.made += 1
        how = "hang" if name in self.slow else self.behaves.get(name, "well")
        self.slow = {one: moment + self.now if one == name else moment for one, moment in self.slow.items()}
        moment = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.made)
        self.there[name] = made(name, how, f"{name}-{self.made}", started_at=moment)

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

    def run(self, plan: Plan | None = None, **changes: Any) -> BaseException | None:
        """Bring it up; what came of it."""
        compose = FakeCompose(Engine(), "p", ())
        object.__setattr__(compose, "world", self)
        seen = replace(self.seen(), **changes)
        applier = Applier(
            compose, seen, cast("Progress", Said(self.said)), build=self.fetch, fetch=self.fetch, routes=ROUTES,
            url="http://localhost:8001/health", timeout=self.timeout, clock=lambda: self.now, pause=self.pause,
        )  # fmt: skip
        try:
            applier.apply(plan_up(seen) if plan is None else plan)
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

    def up_would(self, *services: str, **_: bool) -> dict[str, set[str]]:
        """Say of these services and what they depend on: what is there runs, the rest would be made."""
        self.world.starts.append(("docker", "compose", "--dry-run", *services))
        asked = {*services}.union(*map(self.world.seen().configuration.all_needs, services))
        named = {f"p-{one}-1": {"Running" if one in self.world.there else "Creating"} for one in asked}
        return {name: said for name, said in {**named, **self.world.would}.items() if said is not None}


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    here = World()
    monkeypatch.setattr(containers, "of_project", here.look)
    monkeypatch.setattr(containers, "restart", lambda _, one: here.restarted.append(one.service))
    monkeypatch.setattr(containers, "remove", here.remove)
    monkeypatch.setattr(containers, "read", lambda *_: None)
    monkeypatch.setattr(logs, "last_entries", here.log)
    monkeypatch.setattr(logs, "now", lambda *_: datetime(2026, 1, 1, tzinfo=UTC))
    monkeypatch.setattr(networks, "made_by", lambda *_: networks.Made((), ()))
    monkeypatch.setattr(networks, "remove_new", lambda *_: None)
    monkeypatch.setattr(kept, "keep", lambda _, one: here.before.update({one.service: one}))
    monkeypatch.setattr(kept, "bring_back", here.bring_back)
    monkeypatch.setattr(kept, "forget", lambda *_: None)
    return here
