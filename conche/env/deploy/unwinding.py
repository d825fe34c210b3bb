"""Taking back what a release has begun, and looking whether what worked before it works again."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from conche.engine import containers, health, networks
from conche.engine.compose import Configuration, Service
from conche.engine.containers import Container
from conche.env.deploy.look import NOTHING, Look
from conche.errors import Interrupted, NotRestored, Refused, Restored, Told

__all__ = ["Before", "Undo", "told", "unwind"]

Undo = tuple[str, Callable[[], None]]
"""What it does, in words, and the doing."""

ENGINE_BACK = 60.0
"""Seconds that an engine which is being restarted is waited for before unwinding."""

AGAIN = 30.0
"""Seconds in which a step that cannot be taken back is tried again."""

PAUSE = 0.3
"""Seconds between two tries."""


@dataclass(frozen=True)
class Before:
    """What there was before a release was begun.

    Attributes:
        release: the one that served, or `nothing`.
        working: containers that ran and were not ill.
        answered: whether the release that served gave its users the right answer.
        networks: names of all networks.
    """

    release: str
    working: tuple[Container, ...]
    answered: bool
    networks: frozenset[str]

    @classmethod
    def of(cls, look: Look, current: str) -> Before:
        """As it is now.

        Args:
            current: the release that ought to serve, by its record; what the edge says counts for more.
        """
        working = tuple(one for one in look.all() if one.state == "running" and one.health != "unhealthy")
        found = networks.names(look.compose.engine)
        if look.deploy.serves is None:
            return cls(current or NOTHING, working, answered=False, networks=found)
        there, (at, answer) = look.labels(), look.state()
        release = next((one for one in (at, current, *there) if one in there), NOTHING)
        return cls(release, working, answer.good and at == release, found)

    def lost(self, look: Look, configuration: Configuration, timeout: float | None) -> list[str]:
        """What worked before and does not now, in words; networks that the release has made go."""
        try:
            if not self.working:
                networks.remove_new(look.compose.engine, look.compose.project, self.networks)
            return [*self._not_running(look, configuration, timeout), *self._not_served(look)]
        except (Exception, Told) as error:  # noqa: BLE001 - whatever it is, the first error is the one to show
            return [f"could not look at what works now: {error}"]

    def _not_running(self, look: Look, configuration: Configuration, timeout: float | None) -> list[str]:
        services = {
            one.service: configuration.services.get(one.service, Service(one.service, one.image, frozenset()))
            for one in self.working
        }
        serves = look.deploy.serves
        ids = {one.id for one in self.working}

        def now() -> list[Container]:
            # What the edge serves is the same container still; another may have been made anew as it was.
            found = [one for one in look.all() if one.service in services]
            return [one for one in found if one.service != serves or one.id in ids]

        waiting = health.wait(look.compose.engine, now, services, timeout=timeout)
        return [f"{name} worked before; now it {reason}" for name, reason in waiting.failed.items()]

    def _not_served(self, look: Look) -> list[str]:
        if not self.answered:
            return []
        at, answer = look.state()
        if at != self.release:
            return [f"the edge serves {at or 'nothing'} instead of {self.release}"]
        return [] if answer.good else [f"{self.release} answers {look.deploy.probe.path}: {answer}"]


def unwind(
    undo: Sequence[Undo],
    look: Look,
    before: Before,
    say: Callable[[str], None],
    *,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> list[str]:
    """Take steps back, the newest first; what could not be taken back, in words.

    Each is tried until it succeeds, for a while: an engine that is restarted answers until it is down, and refuses.
    """
    problems = []
    for description, act in reversed(undo):
        say(f"unwinding: {description}")
        deadline = clock() + AGAIN
        while True:
            _await(look, before, clock, pause)
            try:
                act()
            except (Exception, Told) as error:  # noqa: BLE001 - one that fails must not keep the others from it
                if clock() > deadline:
                    problems.append(f"could not {description}: {error}")
                    break
                pause(PAUSE)
            else:
                break
    return problems


def _await(look: Look, before: Before, clock: Callable[[], float], pause: Callable[[float], None]) -> None:
    """Wait until the engine answers, and the edge and what it served run: the engine may just be restarting them."""
    ids = {one.id for one in before.working if one.service in (look.deploy.edge, look.deploy.serves)}
    deadline = clock() + ENGINE_BACK
    while clock() < deadline:
        with contextlib.suppress(Exception):
            stopped = [one for one in look.all() if one.id in ids and one.state != "running"]
            if not stopped:
                return
            for one in stopped:
                containers.start(look.compose.engine, one.id)
        pause(PAUSE)


def told(error: BaseException, problems: Sequence[str], look: Look, *, begun: bool) -> BaseException:
    """The error to show: the first one, and whether what it found was restored."""
    if not isinstance(error, Told):
        for problem in problems:
            error.add_note(problem)
        return error
    if problems:
        return NotRestored(
            "previous-state-lost",
            f"{error.message} What worked before could not be brought back.",
            looked_at=error.looked_at,
            evidence=[*problems, *error.evidence],
            next_command=f"invoke env.status --env {look.name}\ninvoke env.recover --env {look.name}\n"
            f"docker ps --all --filter label=com.docker.compose.project={look.compose.project}",
        )
    if isinstance(error, Restored | Refused | Interrupted) or not begun:
        return error
    return Restored(
        error.code,
        f"{error.message} What served before still serves.",
        looked_at=error.looked_at,
        evidence=error.evidence,
        next_command=error.next_command,
    )
