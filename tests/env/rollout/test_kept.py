"""What a release leaves as it is, and what dies of it meanwhile: said, and no reason to take the release back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest

from conche.engine import containers, logs
from conche.engine.compose import Compose, Configuration
from conche.engine.connection import Engine
from conche.engine.containers import Container
from conche.engine.service import Service
from conche.env.rollout.look import Look
from conche.env.rollout.unwinding import Before
from tests.edged import EdgedStack

DB = Container("1", "p-db-1", "p", "db", "running", "healthy", "i", "i", "h", restarts=2)
WEB = replace(DB, id="2", name="p-web-1", service="web")
CONFIGURATION = Configuration("p", {name: Service(name, "i", frozenset()) for name in ("db", "web")}, (), ())
BEFORE = Before("r1", (DB, WEB), answered=True, networks=frozenset())


@dataclass
class Now:
    """A look at what is there now."""

    there: tuple[Container, ...]
    name: str = "prod"

    @property
    def compose(self) -> Compose:
        return Compose(Engine(), "p", ())

    @property
    def deploy(self) -> Any:
        return SimpleNamespace(serves="web")

    def all(self) -> tuple[Container, ...]:
        return self.there


@pytest.mark.parametrize(
    ("there", "said"),
    [
        ((DB, WEB), ""),
        ((replace(DB, id="9", restarts=0), WEB), ""),
        ((DB, replace(WEB, state="exited", exit_code=1)), ""),
        ((replace(DB, state="exited", exit_code=137), WEB), "db exited with 137: fatal: disk gone"),
        ((replace(DB, restarts=3), WEB), "db keeps restarting: fatal: disk gone"),
        ((WEB,), "db has no container"),
    ],
)
def test_a_kept_service_that_died_is_said_before_the_commit_and_at_the_end(
    monkeypatch: pytest.MonkeyPatch, there: tuple[Container, ...], said: str
) -> None:
    monkeypatch.setattr(logs, "last_entries", lambda *_: ((datetime.now(UTC), "fatal: disk gone"),))
    monkeypatch.setattr(containers, "read", lambda *_: None)
    steps: list[str] = []

    words = BEFORE.died(cast("Look", Now(there)), CONFIGURATION, "r2", steps.append)

    assert words == ([f"{said}. r2 serves without it. Next: invoke env.up --env prod"] if said else [])
    assert steps == words


@pytest.mark.engine
def test_a_store_that_is_killed_during_a_release_is_named(fresh: EdgedStack, engine: Engine) -> None:
    done = fresh.deploy(fresh.version("one"))
    assert done.returncode == 0, done.stderr
    fresh.version("two")
    fresh.replace("stack.yaml", "observe: 1", "observe: 5")
    with fresh.begin("env.deploy", "--env", "prod", "--local", "--image", fresh.reference("two")) as running:
        assert running.stderr is not None
        next(line for line in running.stderr if line.startswith("watch release"))
        engine.client.api.kill(f"{fresh.name}-store")
        said = running.stderr.read()

    assert running.returncode == 0, said
    assert "store exited with 137" in said
    assert "Next: invoke env.up --env prod" in said
