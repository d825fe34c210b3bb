"""Takes a swarm's stack back to what it was before a release, whoever had made it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass

from conche.engine import stacks
from conche.engine.connection import Engine
from conche.engine.stacks import Standing
from conche.errors import Restored, Told

__all__ = ["SETTLING", "WayBack"]

SETTLING = 180.0
"""Seconds to converge, unless a timeout is given."""

PAUSE = 0.5
"""Seconds between two looks."""

AGAIN = 30.0
"""Seconds for which going back is retried."""

GOING = 30.0
"""Seconds that tasks are given to end, so that the networks they are in can be removed."""


@dataclass(frozen=True)
class WayBack:
    """The way of one stack back.

    Attributes:
        say: prints one line of progress.
        timeout: seconds to converge, if more than the default.
    """

    engine: Engine
    stack: str
    say: Callable[[str], None]
    timeout: float | None = None
    clock: Callable[[], float] = time.monotonic
    pause: Callable[[float], None] = time.sleep

    def go(self, before: Standing) -> str:
        """Bring every service back as it was, remove what has come since, and return what went wrong, if anything."""
        said = "bring every service back as it was" if before.specs else "remove what was made"
        self.say(f"unwinding: {said}")
        problem = self._persistently(lambda: stacks.put_back(self.engine, self.stack, before))
        problem = problem or self._persistently(lambda: self._works(before))
        with contextlib.suppress(Exception):
            stacks.sweep_since(self.engine, self.stack, before, GOING, self.pause)
        return problem

    def _works(self, before: Standing) -> None:
        """Wait until all that worked before does again."""
        deadline = self.clock() + max(self.timeout or 0.0, SETTLING)
        while left := stacks.missing(self.engine, self.stack, before):
            if self.clock() > deadline:
                raise Restored("release-failed", f"{'; '.join(left)}.")
            self.pause(PAUSE)

    def _persistently(self, act: Callable[[], None]) -> str:
        """Retry for a while, as an engine may just be restarting, and return what went wrong, if anything."""
        deadline = self.clock() + AGAIN
        while True:
            try:
                act()
            except (Exception, Told) as error:  # noqa: BLE001 - whatever it is, the first error is the one to show
                if self.clock() > deadline:
                    return str(error)
                self.pause(PAUSE)
            else:
                return ""
