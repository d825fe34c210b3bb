"""Starts or removes containers of a service under load: no request is lost, and a kill leaves nothing half done.

A change is noted before it begins. A new container gets requests once it is healthy and has answered through the edge;
one that goes gets no more, and ends those it has.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from conche.engine import containers, health
from conche.engine.containers import Container
from conche.env.evidence import evidence
from conche.env.rollout import members
from conche.env.rollout.look import Look
from conche.errors import Restored
from conche.process import signals_deferred
from conche.release.document import RELEASE
from conche.release.records import Records

__all__ = ["Scaling", "resume"]


def resume(records: Records, look: Look, release: str, say: Callable[[str], None]) -> None:
    """Settle what an interrupted change has left, if any: keep as many containers as were noted, and no more.

    Args:
        release: the one that serves.
    """
    if records.scaling is None:
        return
    service, count = records.scaling
    say(f"scaling {service} was interrupted; it settles at {count}")
    Scaling(look, records, service, release).settle(count)


@dataclass(frozen=True)
class Scaling:
    """One service whose number of containers changes.

    Args:
        release: whose containers they are.
    """

    look: Look
    records: Records
    service: str
    release: str

    @property
    def served(self) -> bool:
        """Whether the edge sends requests to it."""
        return self.service == self.look.deploy.serves

    def grow(self, replicas: int) -> None:
        """Start more containers; users are sent to them once each is healthy and answers through the edge.

        Raises:
            Restored: they did not become healthy, and were removed again.
        """
        before = self._there()
        self.records.note_scaling(self.service, len(before))
        if self.served:
            members.serve_only(self.look, [one for one in before if one.state == "running"])
        try:
            compose = self.look.compose
            compose.make(compose.up_beside(self.service, replicas)).require(f"scaling {self.service}")
            self._await({one.id for one in before})
        except BaseException:
            with signals_deferred():
                self.settle(len(before))
            raise
        self.records.scale({**self.records.replicas(), self.service: replicas})
        self.records.note_scaling(self.service, replicas)
        self._end()

    def shrink(self, replicas: int) -> None:
        """Remove containers, each after it has ended its requests."""
        self.records.scale({**self.records.replicas(), self.service: replicas})
        self.records.note_scaling(self.service, replicas)
        self.settle(replicas)

    def settle(self, count: int) -> None:
        """Keep no more than this many containers, whatever was begun."""
        there = self._there()
        stay, surplus = there[:count], there[count:]
        if surplus and self.served:
            members.serve_only(self.look, [one for one in stay if one.state == "running"])
        engine = self.look.compose.engine
        with ThreadPoolExecutor(max(1, len(surplus))) as pool:
            list(pool.map(lambda one: containers.stop(engine, one), surplus))
        for one in surplus:
            containers.remove(engine, one.id)
        self._end()

    def _there(self) -> list[Container]:
        """Return its containers in the order in which they are kept: of the release, running, healthy, oldest."""

        def place(one: Container) -> tuple[bool, bool, bool, str]:
            other = self.served and one.labels.get(RELEASE) != self.release
            return other, one.state != "running", one.health == "unhealthy", str(one.started_at)

        return sorted(self.look.of(self.service), key=place)

    def _end(self) -> None:
        if self.served:
            members.serve_all(self.look)
        self.records.note_scaling()

    def _await(self, before: Collection[str]) -> None:
        definition = self.look.compose.configuration().services[self.service]

        def new() -> list[Container]:
            return [one for one in self.look.of(self.service) if one.id not in before]

        waiting = health.wait(self.look.compose.engine, new, {self.service: definition}, restarts={})
        if waiting.failed:
            raise Restored(
                "scale-failed",
                f"The new containers of {self.service} do not become healthy; those that ran before still run.",
                evidence=evidence(self.look.compose, waiting),
                next_command=f"invoke env.logs --env {self.look.name}",
            )
        if self.served:
            members.prove(self.look, new(), self.release)
