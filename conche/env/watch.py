"""Watches an environment while it is changed: what is there now, and whether it works."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from conche.engine import containers, health, logs
from conche.engine.compose import Compose
from conche.engine.containers import Container
from conche.engine.health import Waiting
from conche.engine.service import Service
from conche.env.observe import Observed
from conche.env.plan import works
from conche.env.unwinding import ENGINE_BACK, PAUSE
from conche.errors import ConcheError

__all__ = ["EnvironmentWatch"]


@dataclass
class EnvironmentWatch:
    """A live view of the environment that was `seen` before.

    Args:
        timeout: seconds to wait for health; None for what the healthchecks allow.

    Attributes:
        started: services that were started here, or are starting, and have to work in the end.
        ordered: service -> when existing containers of it were told to start, by the engine's clock.
        restarted: services whose containers were started anew, so that their restarts count from zero.
    """

    compose: Compose
    seen: Observed
    timeout: float | None = None
    clock: Callable[[], float] = time.monotonic
    pause: Callable[[float], None] = time.sleep
    started: set[str] = field(default_factory=set)
    ordered: dict[str, datetime] = field(default_factory=dict)
    restarted: set[str] = field(default_factory=set)
    _engine_gone: bool = False

    def look(self) -> tuple[Container, ...]:
        """Return the containers that there are now."""
        return containers.of_project(self.compose.engine, self.compose.project)

    def of(self, name: str) -> list[Container]:
        """Return the containers of one service."""
        return [container for container in self.look() if container.service == name]

    def order(self, *names: str) -> None:
        """Note that existing containers are told to start now: what they wrote and did before is not part of it."""
        self.ordered.update(dict.fromkeys(names, logs.now(self.compose.engine)))

    def wait(
        self,
        services: Mapping[str, Service],
        begun: float | None = None,
        restarts: Mapping[str, int] | None = None,
        groups: Sequence[Collection[str]] = (),
    ) -> Waiting:
        """Wait until these services work, or all of one group, or one has failed; arguments as in `health.wait`."""
        return health.wait(
            self.compose.engine,
            lambda: [container for container in self.look() if container.service in services],
            services,
            timeout=self.timeout,
            restarts=restarts,
            begun=begun,
            groups=groups,
            clock=self.clock,
            pause=self.pause,
        )

    def restarts(self) -> dict[str, int]:
        """Return container id -> restarts from before, which do not count, of containers that kept running."""
        running = [one for one in self.seen.containers if one.state == "running"]
        return {one.id: one.restarts for one in running if one.service not in self.restarted}

    def wait_ready(self) -> None:
        """Wait until the engine answers: it may be restarting. One that does not come back is waited for only once."""
        deadline = self.clock() + ENGINE_BACK
        while not self._engine_gone:
            try:
                self.look()
            except ConcheError:
                self._engine_gone = self.clock() > deadline
                self.pause(PAUSE)
            else:
                return

    def lost(self) -> list[str]:
        """Describe services that worked before and do not now; one that was just replaced is given its time."""
        services = self.seen.configuration.services
        served = {
            container.service: services[container.service]
            for container in self.seen.containers
            if container.service in services and container.state == "running" and works(None, container)
        }
        try:
            waiting = self.wait(served)
        except Exception as error:  # noqa: BLE001 - whatever it is, the first error is the one to show
            return [f"could not check what runs now: {error}"]
        return [f"{name} worked before; now it {reason}" for name, reason in waiting.services.items()]
