"""Asks the healthchecks of several containers, some of them at a time."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import replace

from conche.engine import containers
from conche.engine.connection import Engine
from conche.engine.containers import Container

__all__ = ["AT_ONCE", "asked_together"]

AT_ONCE = 4
"""Healthchecks that run at a time: each is a process here, and another in its container."""


def asked_together(engine: Engine, found: Sequence[Container], passed: Collection[str] = ()) -> tuple[Container, ...]:
    """Return each of these containers as `containers.asked` does.

    Args:
        passed: ids of containers that have passed their healthcheck, and are not asked again.
    """
    trusted = {one.id: replace(one, health="healthy") for one in found if one.starts and one.id in passed}
    starting = [one for one in found if one.starts and one.id not in passed]
    asked = _several(engine, starting) if len(starting) > 1 else [containers.asked(engine, one) for one in starting]
    answers = {**trusted, **{one.id: one for one in asked}}
    return tuple(answers.get(one.id, one) for one in found)


def _several(engine: Engine, starting: Sequence[Container]) -> list[Container]:
    """Ask them in threads that an interruption leaves behind: a healthcheck may hang for as long as its timeout."""
    todo, answers = deque(starting), queue.SimpleQueue[Container | BaseException]()

    def ask() -> None:
        with contextlib.suppress(IndexError):
            while True:
                one = todo.popleft()
                try:
                    answers.put(containers.asked(engine, one))
                except BaseException as error:  # noqa: BLE001 - raised below, where somebody waits for it
                    answers.put(error)

    for _ in range(min(AT_ONCE, len(starting))):
        threading.Thread(target=ask, daemon=True).start()
    asked = []
    try:
        for _ in starting:
            answer = answers.get()
            if isinstance(answer, BaseException):
                raise answer
            asked.append(answer)
    finally:
        todo.clear()
    return asked
