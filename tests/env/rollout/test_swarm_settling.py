"""What a killed release has left on a swarm: whether all of it runs, and what there was before it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from conche.command import Invocation
from conche.engine import stacks, swarm
from conche.engine.compose import Compose
from conche.engine.connection import Engine
from conche.engine.stacks import Standing
from conche.engine.swarm import Replicated
from conche.env import recover
from conche.env.rollout import swarm_settling
from conche.env.rollout.look import Look
from conche.env.rollout.swarm_settling import finished, settle_swarm
from conche.formats import STANDING, WrittenByNewer
from conche.output import Output
from conche.release.document import Document
from conche.release.records import Placed, Record, Records
from conche.stack import Deploy

BEFORE = Standing({"web": {"level": 1}, "store": {"level": 1}}, frozenset({"web", "store"}), frozenset({"network"}))


def record(number: int, **definitions: str) -> Record:
    placed = {name: Placed(f"{name}:1", "sha256:0", "", said, ()) for name, said in definitions.items()}
    return Record(number, "prod", "deploy", "2026", "who", "where", "", "abc", dirty=False, services=placed)


def service(name: str, image: str = "", running: int = 1) -> Replicated:
    return Replicated(name, name, image or f"{name}:1", 1, running, 0, "", "", (), {})


CURRENT, WANTED = record(1, web="old", store="same"), record(2, web="new", store="same")
RUNNING = (service("web"), service("store"))
SENT = Standing({"web": {"level": 2}, "store": {"level": 1}})


@pytest.mark.parametrize(
    ("found", "now", "before", "whether"),
    [
        pytest.param(RUNNING, SENT, BEFORE, True, id="what it changes is another than before, and runs"),
        pytest.param(RUNNING, BEFORE, BEFORE, False, id="killed before anything was sent: the same images run"),
        pytest.param(RUNNING[:1], SENT, BEFORE, False, id="a service is not there"),
        pytest.param((service("web", running=0), RUNNING[1]), SENT, BEFORE, False, id="it has not converged"),
        pytest.param((service("web", "web:0"), RUNNING[1]), SENT, BEFORE, False, id="the swarm has rolled it back"),
        pytest.param(RUNNING, BEFORE, None, True, id="kept by an earlier version, which knew the images alone"),
    ],
)
def test_whether_all_of_a_killed_release_runs(
    found: tuple[Replicated, ...], now: Standing, before: Standing | None, whether: bool
) -> None:
    assert finished(WANTED, CURRENT, found, now, before) is whether


def test_of_a_stack_that_is_taken_over_every_service_must_be_another_than_before() -> None:
    assert not finished(WANTED, None, RUNNING, SENT, BEFORE)
    assert finished(WANTED, None, RUNNING, Standing({"web": {"level": 2}, "store": {"level": 2}}), BEFORE)


def test_what_was_there_before_comes_back_as_it_was_kept() -> None:
    assert Standing.unpacked(BEFORE.packed()) == BEFORE
    assert "level" not in repr(BEFORE)


def test_what_a_later_version_has_kept_is_named() -> None:
    later = json.loads(BEFORE.packed()) | {"format": STANDING.number + 1, "conche": "9.0.0"}

    with pytest.raises(WrittenByNewer, match=r"the stack before a release was written by Conche 9\.0\.0"):
        Standing.unpacked(json.dumps(later).encode())


def test_env_recover_settles_what_is_unfinished_once_it_has_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stack.yaml").write_text("name: s\nenvironments: {prod: {compose: [compose.yaml], engine: swarm}}\n")
    (tmp_path / "compose.yaml").write_text("services: {web: {image: x}}\n")
    under_way, ended = (
        SimpleNamespace(unfinished=WANTED, current=CURRENT),
        SimpleNamespace(unfinished=None, current=WANTED),
    )
    seen = [under_way]

    @contextlib.contextmanager
    def waited(*_: object) -> Iterator[None]:
        """A lock whose holder is a deployment, which ends meanwhile."""
        seen[0] = ended
        yield

    monkeypatch.setattr(recover, "locked", waited)
    monkeypatch.setattr(recover, "open_records", lambda *_: seen[0])
    monkeypatch.setattr(recover, "settle_swarm", lambda *_, **__: pytest.fail("what has ended was settled"))

    done = recover.recover(Invocation(tmp_path, Output("env.recover")), "prod")

    assert (done.changed, list(done.lines)) == (False, ["Nothing to recover. r2 serves."])


def test_a_release_from_before_there_was_an_edge_is_asked_through_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stack.yaml").write_text("name: s\nenvironments: {prod: {compose: [compose.yaml], engine: swarm}}\n")
    (tmp_path / "compose.yaml").write_text("services: {web: {image: x}}\n")
    endings: list[str] = []
    records = SimpleNamespace(
        unfinished=WANTED, current=CURRENT, entries=(), sealed=lambda *_: None,
        end=lambda _, ending: endings.append(ending.result),
    )  # fmt: skip
    kept = Document({"services": {"web": {}, "store": {}}}, {})
    monkeypatch.setattr(swarm_settling, "opened_if_possible", lambda *_: kept)
    monkeypatch.setattr(swarm_settling, "open_records", lambda *_: records)
    monkeypatch.setattr(swarm, "services", lambda *_: RUNNING)
    monkeypatch.setattr(stacks, "standing", lambda *_: SENT)
    call, compose = Invocation(tmp_path, Output("env.deploy")), Compose(Engine(), "s", ())

    settle_swarm(call, cast("Records", records), Look("prod", compose, Deploy(edge="edge", serves="web"), {}))

    assert endings == ["succeeded"]
