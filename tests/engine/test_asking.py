"""Healthchecks of several containers, asked some at a time."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from conche.engine import containers
from conche.engine.asking import AT_ONCE, asked_together
from conche.engine.connection import Engine
from conche.engine.containers import Container
from conche.errors import Refused

NOWHERE = Engine("unix:///nowhere")
STARTING = Container("", "web", "p", "web", "running", "starting", "i", "x", "h")


def several(count: int) -> list[Container]:
    return [replace(STARTING, id=str(number)) for number in range(count)]


def test_several_are_asked_at_a_time_and_told_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    all_here = threading.Barrier(AT_ONCE)

    def passes(_: Engine, one: Container) -> bool:
        all_here.wait(300)
        return int(one.id) % 2 == 0

    monkeypatch.setattr(containers, "passes_healthcheck", passes)

    told = asked_together(NOWHERE, several(2 * AT_ONCE))

    assert [one.id for one in told] == [str(number) for number in range(2 * AT_ONCE)]
    assert [one.health for one in told] == ["healthy", "starting"] * AT_ONCE


def test_only_what_starts_and_has_not_passed_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def passes(_: Engine, one: Container) -> bool:
        asked.append(one.id)
        return False

    monkeypatch.setattr(containers, "passes_healthcheck", passes)
    one, two, three, four = several(4)
    ill, ended = replace(three, health="unhealthy"), replace(four, state="exited")

    told = asked_together(NOWHERE, [one, two, ill, ended], passed={"0", "2"})

    assert asked == ["1"]
    assert told == (replace(one, health="healthy"), two, ill, ended)


def test_an_error_does_not_wait_for_a_healthcheck_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    hangs = threading.Event()

    def passes(_: Engine, one: Container) -> bool:
        if one.id == "0":
            raise Refused("environment-too-long", "Too long.")
        return hangs.wait(600)

    monkeypatch.setattr(containers, "passes_healthcheck", passes)

    with pytest.raises(Refused):
        asked_together(NOWHERE, several(3))

    assert not hangs.is_set()
    hangs.set()
