"""Asks a release through the edge whether it is the one that was meant, and works with what is behind it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from conche.env.rollout.edge import Answer, Edge
from conche.errors import Restored
from conche.stack import Probe

__all__ = ["PAUSE", "Probing"]

PAUSE = 0.3
"""Seconds between two probes, and between two checks while watching."""

UNREADY = 10.0
"""Seconds for which a release may not be ready: what is behind it may take longer than the release itself."""


@dataclass(frozen=True)
class Probing:
    """How a release is asked.

    Attributes:
        right: whether an answer at `probe.path` is this release's.
        environment: its name.
    """

    probe: Probe
    release: str
    right: Callable[[Answer, str], bool]
    redact: Callable[[str], str]
    environment: str
    clock: Callable[[], float] = time.monotonic
    pause: Callable[[float], None] = time.sleep

    def require(self, edge: Edge, said: str, patience: float, *, candidate: str = "", times: int = 1) -> None:
        """Require right answers, several in a row, and bear wrong ones for a while.

        Args:
            said: what is wrong if they do not come.
            patience: seconds of wrong answers.
            candidate: host:port of a release that does not serve yet.

        Raises:
            Restored: they do not come.
        """
        paths = (self.probe.path,) * times + ((self.probe.ready,) if self.probe.ready else ())
        since: float | None = None
        wrong_since: float | None = None
        while True:
            answers = edge.probe(paths, candidate)
            wrong = [one for one in answers[:times] if not self.right(one, self.release)]
            unready = [one for one in answers[times:] if not one.good]
            if not wrong and not unready:
                return
            # Counted from the first wrong answer on, which itself may have taken long.
            now = self.clock()
            since = now if since is None else since
            wrong_since = (now if wrong_since is None else wrong_since) if wrong else None
            if now > since + max(patience, UNREADY) or (wrong_since is not None and now > wrong_since + patience):
                raise self._failure(wrong, unready, said)
            self.pause(PAUSE)

    def _failure(self, wrong: list[Answer], unready: list[Answer], said: str) -> Restored:
        logs = f"invoke env.logs --env {self.environment}"
        if wrong:
            field = f" with {self.probe.field} {self.release}" if self.probe.field else ""
            seen = [self.redact(f"{self.probe.path}: {one}") for one in dict.fromkeys(wrong)]
            return Restored("probe-failed", said, evidence=seen, looked_at=[f"wanted: 2xx{field}"], next_command=logs)
        ready = self.probe.ready
        return Restored(
            "release-not-ready",
            f"{self.release} runs, but is not ready: {ready} is answered {unready[0].status or 'not at all'}.",
            evidence=[self.redact(f"{ready}: {one}") for one in dict.fromkeys(unready)],
            looked_at=["wanted: 2xx"],
            next_command=logs,
        )
