"""Whether containers work: a pure judgement, and polling until it is final.

`docker compose up --wait` is not asked: it may exit 0 when its time is over, and a one-shot service that ends well
makes it fail.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum

from conche.engine import containers
from conche.engine.compose import Service
from conche.engine.connection import Engine
from conche.engine.containers import Container

__all__ = ["RESTARTED", "Verdict", "Waiting", "falls_over", "judge", "wait"]

POLL = 0.1
"""Seconds between two looks."""

WITHOUT_HEALTHCHECK = 3.0
"""Seconds a container without a healthcheck must have run to count as working."""

STEADY = 20.0
"""Seconds that one without a healthcheck must have run where the engine has had to start it again."""

DEADLINE_WITHOUT_HEALTHCHECK = 30.0

RESTARTED = "keeps restarting"
"""What is said of a container that the engine has started again; the start that failed is over then."""


class Verdict(Enum):
    """What a look at a container says."""

    HEALTHY = "healthy"
    WAITING = "starting"
    FAILED = "failed"


@dataclass(frozen=True)
class Waiting:
    """How a wait ended.

    Attributes:
        containers: their last state.
        failed: the ones that do not work, with the reason.
    """

    containers: tuple[Container, ...]
    failed: Mapping[str, str]

    @property
    def services(self) -> Mapping[str, str]:
        """Service -> why it does not work."""
        known = {container.name: container.service for container in self.containers}
        return {known.get(name, name): reason for name, reason in sorted(self.failed.items())}


def falls_over(container: Container, now: datetime | None = None) -> bool:
    """Whether a container runs only because the engine has started it again, and has not worked since.

    One without a healthcheck works once it has run for a while.

    Args:
        now: by default this moment, by our clock.
    """
    if container.state != "running" or not container.restarts or container.started_at is None:
        return container.state == "restarting"
    ran = ((now or datetime.now(UTC)) - container.started_at).total_seconds()
    return container.health == "starting" or (container.health == "none" and 0 <= ran < STEADY)


def judge(container: Container, service: Service, *, ran_for: float, restarts_before: int = 0) -> tuple[Verdict, str]:
    """The verdict over a container, and the reason when it failed.

    Args:
        ran_for: seconds since it started.
        restarts_before: restarts that were counted before the wait began; only new ones count against it.
    """
    failure = _failure(container, service, restarts_before)
    if failure:
        return Verdict.FAILED, failure
    if container.state in ("exited", "dead"):
        return Verdict.HEALTHY, ""
    if container.state != "running" or service.completes:
        return Verdict.WAITING, ""
    # A healthcheck may also come with the image.
    checked = service.healthcheck is not None or container.health != "none"
    needed = STEADY if falls_over(container) else WITHOUT_HEALTHCHECK
    settled = container.health == "healthy" if checked else ran_for >= needed
    return (Verdict.HEALTHY if settled else Verdict.WAITING), ""


def _failure(container: Container, service: Service, restarts_before: int) -> str:
    if container.oom_killed:
        return "was killed for want of memory (OOM)"
    if container.restarts > restarts_before or container.state == "restarting":
        return RESTARTED + (f", exit code {container.exit_code}" if container.exit_code else "")
    ended = container.state in ("exited", "dead")
    if ended and (container.exit_code != 0 or not (service.ends or service.completes)):
        return f"exited with {container.exit_code}"
    return "is unhealthy" if container.health == "unhealthy" else ""


def deadline(services: Sequence[Service]) -> float:
    """Seconds to wait for these services: the longest that one of their own healthchecks allows."""
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
    """Look until every container works or one has failed.

    Args:
        look: the containers of these services as they are now.
        services: their definitions, by name.
        timeout: seconds; default is what the healthchecks allow.
        restarts: container id -> restarts from before, which do not count; of a container that is not in it, such as
            one that was started just now, all do. Default: those of the first look.
        begun: when the waiting began, by `clock`, where this goes on with it; default: now.
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
    """At least one look, then one every `POLL` seconds while there is time."""
    yield
    while clock() - begun < limit:
        pause(POLL)
        yield
