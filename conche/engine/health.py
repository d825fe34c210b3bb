"""Judges whether containers work, and polls until the verdict is final.

`docker compose up --wait` is not used: it may exit 0 when it times out, and a one-shot service that exits successfully
makes it fail.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum

from conche.engine import containers
from conche.engine.connection import Engine
from conche.engine.containers import Container
from conche.engine.service import Service

__all__ = ["RESTARTED", "Verdict", "Waiting", "falls_over", "judge", "wait"]

POLL = 0.1
"""Seconds between two polls."""

WITHOUT_HEALTHCHECK = 3.0
"""Seconds that a container without a healthcheck must have run to count as working."""

STEADY = 20.0
"""Seconds that it must have run if the engine had to restart it."""

DEADLINE_WITHOUT_HEALTHCHECK = 30.0

RESTARTED = "keeps restarting"
"""The reason given for a container that the engine has restarted, when the failed run is already over."""


class Verdict(Enum):
    """The state of a container at one poll."""

    HEALTHY = "healthy"
    WAITING = "starting"
    FAILED = "failed"


@dataclass(frozen=True)
class Waiting:
    """How a wait ended.

    Attributes:
        containers: their last state.
        failed: name of each container that does not work -> the reason.
    """

    containers: tuple[Container, ...]
    failed: Mapping[str, str]

    @property
    def services(self) -> Mapping[str, str]:
        """Failed service -> why it does not work."""
        known = {container.name: container.service for container in self.containers}
        return {known.get(name, name): reason for name, reason in sorted(self.failed.items())}


def falls_over(container: Container, now: datetime | None = None) -> bool:
    """Return whether the engine has restarted a container that has not worked since.

    Without a healthcheck, a container works once it has run for `STEADY` seconds.

    Args:
        now: by default the current time, by our clock.
    """
    if container.state != "running" or not container.restarts or container.started_at is None:
        return container.state == "restarting"
    ran = ((now or datetime.now(UTC)) - container.started_at).total_seconds()
    return container.health == "starting" or (container.health == "none" and 0 <= ran < STEADY)


def judge(container: Container, service: Service, *, ran_for: float, restarts_before: int = 0) -> tuple[Verdict, str]:
    """Return the verdict on a container, and the reason if it failed.

    Args:
        ran_for: seconds since it started.
        restarts_before: restarts from before the wait; only new ones count against it.
    """
    failure = _failure(container, service, restarts_before)
    if failure:
        return Verdict.FAILED, failure
    if container.state in ("exited", "dead"):
        return Verdict.HEALTHY, ""
    if container.state != "running" or service.completes:
        return Verdict.WAITING, ""
    # A healthcheck may also come from the image.
    checked = service.healthcheck is not None or container.health != "none"
    needed = STEADY if falls_over(container) else WITHOUT_HEALTHCHECK
    settled = container.health == "healthy" if checked else ran_for >= needed
    return (Verdict.HEALTHY if settled else Verdict.WAITING), ""


def _failure(container: Container, service: Service, restarts_before: int) -> str:
    if container.oom_killed:
        return "was killed for lack of memory (OOM)"
    if container.restarts > restarts_before or container.state == "restarting":
        return RESTARTED + (f", exit code {container.exit_code}" if container.exit_code else "")
    ended = container.state in ("exited", "dead")
    if ended and (container.exit_code != 0 or not (service.ends or service.completes)):
        return f"exited with {container.exit_code}"
    return "is unhealthy" if container.health == "unhealthy" else ""


def deadline(services: Sequence[Service]) -> float:
    """Return the seconds to wait for these services: the longest that any of their healthchecks allows."""
    return max(
        (service.healthcheck.deadline if service.healthcheck else DEADLINE_WITHOUT_HEALTHCHECK for service in services),
        default=0.0,
    )


def wait(
    engine: Engine,
    look: Callable[[], Sequence[Container]],
    services: Mapping[str, Service],
    *,
    timeout: float | None = None,
    restarts: Mapping[str, int] | None = None,
    begun: float | None = None,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> Waiting:
    """Poll until every container works or one has failed.

    Args:
        look: returns the current containers of these services.
        services: their definitions, by name.
        timeout: seconds; default is what the healthchecks allow.
        restarts: container id -> earlier restarts, which do not count; all restarts count for a container that is
            missing here, such as one just started. Default: those of the first poll.
        begun: when an earlier wait that this one continues began, by `clock`; default: now.
    """
    limit = deadline(tuple(services.values())) if timeout is None else timeout
    begun = clock() if begun is None else begun
    for _ in _until_over(clock, begun, limit, pause):
        seen = tuple(containers.asked(engine, container) for container in look())
        absent = [name for name in services.keys() - {c.service for c in seen} if services[name].replicas != 0]
        verdicts = dict.fromkeys(absent, (Verdict.FAILED, "has no container"))
        restarts = {one.id: one.restarts for one in seen} if restarts is None else restarts
        for container in seen:
            verdicts[container.name] = judge(
                container,
                services[container.service],
                ran_for=clock() - begun,
                restarts_before=restarts.get(container.id, 0),
            )
        failed = {name: reason for name, (verdict, reason) in verdicts.items() if verdict is Verdict.FAILED}
        if failed or all(verdict is Verdict.HEALTHY for verdict, _ in verdicts.values()):
            return Waiting(seen, failed)
    late = {
        name: f"was not healthy within {limit:g} s"
        for name, (verdict, _) in verdicts.items()
        if verdict is Verdict.WAITING
    }
    return Waiting(seen, late)


def _until_over(
    clock: Callable[[], float], begun: float, limit: float, pause: Callable[[float], None]
) -> Iterator[None]:
    """Yield at least once, then every `POLL` seconds until the limit."""
    yield
    while clock() - begun < limit:
        pause(POLL)
        yield
