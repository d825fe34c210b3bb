"""Remembers what there was before a release, and checks that it works again once the release is taken back."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass

from conche.engine import containers, health, networks
from conche.engine.compose import Configuration
from conche.engine.containers import Container
from conche.engine.health import Waiting
from conche.engine.service import Service
from conche.env.evidence import explained
from conche.env.rollout.look import FAULT, NOTHING, Look
from conche.env.unwinding import ENGINE_BACK, PAUSE
from conche.errors import NotRestored, Told
from conche.release.document import alias

__all__ = ["Before", "by_hand", "wait_ready"]


@dataclass(frozen=True)
class Before:
    """What there was before a release was begun.

    Attributes:
        release: the one that served, or `nothing`.
        working: containers that ran and were not unhealthy.
        answered: whether the release that served gave its users a good answer.
        identified: whether that answer also said that it came from this release.
        networks: names of all networks.
    """

    release: str
    working: tuple[Container, ...]
    answered: bool
    networks: frozenset[str]
    identified: bool = False

    @classmethod
    def of(cls, look: Look, current: str) -> Before:
        """Look at what there is now.

        Args:
            current: label of the release that ought to serve; what the edge says counts for more.
        """
        working = tuple(one for one in look.all() if one.state == "running" and one.health != "unhealthy")
        found = networks.names(look.compose.engine)
        if look.deploy.serves is None:
            return cls(current or NOTHING, working, answered=False, networks=found)
        there, (at, answer) = look.labels(), look.state()
        release = next((one for one in (at, current, *there) if one in there), NOTHING)
        answered = answer.good and at == release
        return cls(release, working, answered, found, answered and look.right(answer, release))

    def died(self, look: Look, configuration: Configuration, release: str, say: Callable[[str], None]) -> list[str]:
        """Report services that the release keeps but that no longer work; it does not fail because of them."""
        kept = {one.service for one in self.working if one.service in configuration.services} - {look.deploy.serves}
        restarts = {one.id: one.restarts for one in self.working}
        seen = tuple(one for one in look.all() if one.service in kept)
        failed = dict.fromkeys(kept - {one.service for one in seen}, "has no container")
        for one in seen:
            service, before = configuration.services[one.service], restarts.get(one.id, 0)
            failed[one.name] = health.judge(one, service, ran_for=0.0, restarts_before=before)[1]
        ill = Waiting(seen, {name: reason for name, reason in failed.items() if reason})
        found = explained(look.compose, ill).values()
        words = [f"{one.says}. {release} serves without it. Next: invoke env.up --env {look.name}" for one in found]
        for said in words:
            say(said)
        return words

    def lost(self, look: Look, configuration: Configuration, timeout: float | None) -> list[str]:
        """Describe what worked before and does not now; if nothing did, remove networks that the release has made."""
        try:
            if not self.working:
                networks.remove_new(look.compose.engine, look.compose.project, self.networks)
            return [*self._not_running(look, configuration, timeout), *self.not_served(look)]
        except (Exception, Told) as error:  # noqa: BLE001 - whatever it is, the first error is the one to show
            return [f"could not check what works now: {error}"]

    def _not_running(self, look: Look, configuration: Configuration, timeout: float | None) -> list[str]:
        services = {
            one.service: configuration.services.get(one.service, Service(one.service, one.image, frozenset()))
            for one in self.working
        }
        serves = look.deploy.serves
        ids = {one.id for one in self.working}

        def now() -> list[Container]:
            # What the edge serves must still be the same container; others may have been made anew as they were.
            found = [one for one in look.all() if one.service in services]
            return [one for one in found if one.service != serves or one.id in ids]

        waiting = health.wait(look.compose.engine, now, services, timeout=timeout)
        return [f"{name} worked before; now it {reason}" for name, reason in waiting.failed.items()]

    def require_answer(self, look: Look, port: int) -> None:
        """Check that what answered before still does, bypassing the edge's configuration, which may be at fault.

        Raises:
            NotRestored: it does not, so users are not sent back to it.
        """
        if not self.answered:
            return
        path = look.probe_of(self.release).path
        alone = look.edge().reaches(f"{alias(look.deploy.serves or '', self.release)}:{port}", path)
        if not 0 < alone.status < FAULT:
            raise NotRestored("previous-state-lost", f"{self.release} does not answer: {alone}")

    def not_served(self, look: Look) -> list[str]:
        """Describe a wrong answer to users who got the right one before."""
        if not self.answered:
            return []
        at, answer = look.state()
        if at != self.release:
            return [f"the edge serves {at or 'nothing'} instead of {self.release}"]
        right = look.right(answer, self.release) if self.identified else answer.good
        return [] if right else [f"{self.release} answers {look.probe_of(self.release).path}: {answer}"]


def wait_ready(
    look: Look,
    before: Before,
    *,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Wait for the engine, which may be restarting, and see that the edge and what it served run again."""
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


def by_hand(look: Look) -> str:
    """Return the commands to use if what worked before a release could not be brought back."""
    return (
        f"invoke env.status --env {look.name}\ninvoke env.recover --env {look.name}\n"
        f"docker ps --all --filter label=com.docker.compose.project={look.compose.project}"
    )
