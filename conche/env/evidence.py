"""Why containers do not work, in their own words."""

from __future__ import annotations

from collections.abc import Iterator

from conche.engine import containers
from conche.engine.compose import Compose
from conche.engine.containers import Container
from conche.engine.health import Waiting

__all__ = ["evidence"]


def evidence(compose: Compose, waiting: Waiting) -> list[str]:
    """For each container that failed: how, its last lines, what its healthcheck and the engine said; redacted."""
    failed = [container for container in waiting.containers if container.name in waiting.failed]
    return [compose.redact(line) for one in failed for line in _of(compose, one, waiting.failed[one.name])]


def _of(compose: Compose, container: Container, reason: str) -> Iterator[str]:
    yield f"{container.name} {reason}; its last lines:"
    yield from containers.last_lines(compose.engine, container.id) or ["(it wrote nothing)"]
    yield from (f"healthcheck: {words}" for words in container.health_log)
    if container.error:
        yield f"engine: {container.error}"
