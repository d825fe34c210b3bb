"""Why containers do not work, in their own words."""

from __future__ import annotations

from collections.abc import Iterator

from conche.engine import containers
from conche.engine.compose import Compose
from conche.engine.containers import Container
from conche.engine.health import Waiting
from conche.errors import ConcheError

__all__ = ["evidence", "reasons"]


def reasons(waiting: Waiting) -> str:
    """The services that do not work, each with why: `web exited with 3, db is unhealthy`."""
    services = {container.name: container.service for container in waiting.containers}
    said = {services.get(name, name): reason for name, reason in waiting.failed.items()}
    return ", ".join(f"{name} {reason}" for name, reason in sorted(said.items()))


def evidence(compose: Compose, waiting: Waiting) -> list[str]:
    """For each container that failed: how, its last lines, what its healthcheck and the engine said; redacted.

    What cannot be read is said in its place: the failure that is being explained is the one to show.
    """
    failed = [container for container in waiting.containers if container.name in waiting.failed]
    return [compose.redact(line) for one in failed for line in _of(compose, one, waiting.failed[one.name])]


def _of(compose: Compose, container: Container, reason: str) -> Iterator[str]:
    try:
        lines = containers.last_lines(compose.engine, container.id)
    except ConcheError as error:
        yield f"{container.name} {reason}; {_unread(container, error)}"
    else:
        yield f"{container.name} {reason}; its last lines:"
        yield from lines or ["(it wrote nothing)"]
    yield from (f"healthcheck: {words}" for words in container.health_log)
    if container.error:
        yield f"engine: {container.error}"


def _unread(container: Container, error: ConcheError) -> str:
    """Why a log cannot be read: most often because of where it goes."""
    said = " ".join(error.evidence) or error.message
    if "does not support reading" in said:
        return f'its log goes to "{container.log_driver}" and cannot be read'
    return f"its log cannot be read: {said}"
