"""Judges whether containers work, and polls until the verdict is final.

`docker compose up --wait` is not used: it may exit 0 when it times out, and a one-shot service that exits successfully
makes it fail.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import Enum

from conche.engine.asking import asked_together
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
        working: services that work.
    """

    containers: tuple[Container, ...]
    failed: Mapping[str, str]
    working: frozenset[str] = frozenset()

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
    # One that is to complete may be meant to try again until it can, as with a database that is not there yet.
    tries_again = service.completes and container.restart_policy == "on-failure"
    if not tries_again and (container.restarts > restarts_before or container.state == "restarting"):
        return RESTARTED + (f", exit code {container.exit_code}" if container.exit_code else "")
    ended = container.state in ("exited", "dead")
    if ended and (container.exit_code != 0 or not (service.ends or service.completes)):
        return f"exited with {container.exit_code}"
    # What is waited for to complete may have the healthcheck of an image that usually serves.
    return "is unhealthy" if not service.completes and container.health == "unhealthy" else ""


def deadline(services: Sequence[Service]) -> float:
    """Return the seconds to wait for these services: the longest that any of their healthchecks allows."""
    return max(
        (service.healthcheck.deadline if service.healthcheck else DEADLINE_WITHOUT_HEALTHCHECK for service in services),
        default=0.0,
    )


def wait(  # noqa: PLR0913 - every option is named
    engine: Engine,
    look: Callable[[], Sequence[Container]],
    services: Mapping[str, Service],
    *,
    timeout: float | None = None,
    restarts: Mapping[str, int] | None = None,
    begun: float | None = None,
    groups: Sequence[Collection[str]] = (),
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> Waiting:
    """Poll until every container works or one has failed.

    A healthcheck that we ask ourselves is not asked again once it has passed, but for the last poll: what works has
    worked at one moment.

    Args:
        look: returns the current containers of these services.
        services: their definitions, by name.
        timeout: seconds; default is what the healthchecks allow.
        restarts: container id -> earlier restarts, which do not count; all restarts count for a container that is
            missing here, such as one just started. Default: those of the first poll.
        begun: when an earlier wait that this one continues began, by `clock`; default: now.
        groups: services that are enough if all of one group work; each has the time of the groups it is in. Default:
            all services are one group.
    """
    groups = groups or [services.keys()]
    limits = _limits(services, groups) if timeout is None else dict.fromkeys(services, timeout)
    begun = clock() if begun is None else begun
    passed: set[str] = set()
    while True:
        found, trusted = look(), passed
        seen = asked_together(engine, found, trusted)
        passed = trusted | {now.id for was, now in zip(found, seen, strict=True) if was.health != now.health}
        restarts = {one.id: one.restarts for one in seen} if restarts is None else restarts
        ran = clock() - begun
        verdicts = [
            judge(one, services[one.service], ran_for=ran, restarts_before=restarts.get(one.id, 0)) for one in seen
        ]
        waiting = _sum_up(services, seen, verdicts)
        if waiting.failed:
            return waiting
        if any(waiting.working.issuperset(group) for group in groups):
            if not trusted:
                return waiting
            passed = set()
            continue
        late = {
            one.name: f"was not healthy within {limits[one.service]:g} s"
            for one, (verdict, _) in zip(seen, verdicts, strict=True)
            if verdict is Verdict.WAITING and ran >= limits[one.service]
        }
        if late:
            return replace(waiting, failed=late)
        pause(POLL)


def _limits(services: Mapping[str, Service], groups: Sequence[Collection[str]]) -> dict[str, float]:
    """Return the seconds that each service has: those of the slowest of a group, of the longest if it is in several."""
    limits: dict[str, float] = {}
    for group in groups:
        limit = deadline([services[name] for name in group])
        limits.update({name: max(limit, limits.get(name, 0.0)) for name in group})
    return limits


def _sum_up(
    services: Mapping[str, Service], seen: Sequence[Container], verdicts: Sequence[tuple[Verdict, str]]
) -> Waiting:
    """Return what the verdicts on containers say of their services; one that has none, and should, has failed."""
    absent = services.keys() - {one.service for one in seen}
    failed = {name: "has no container" for name in absent if services[name].replicas != 0}
    unsettled = set()
    for one, (verdict, reason) in zip(seen, verdicts, strict=True):
        if verdict is Verdict.FAILED:
            failed[one.name] = reason
        if verdict is not Verdict.HEALTHY:
            unsettled.add(one.service)
    return Waiting(tuple(seen), failed, frozenset(services.keys() - unsettled))
