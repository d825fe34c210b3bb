"""Reads containers' logs with timestamps."""

from __future__ import annotations

from datetime import UTC, datetime

from conche.engine import containers
from conche.engine.connection import Engine, translated

__all__ = ["last_entries", "now"]


def now(engine: Engine) -> datetime:
    """Return the current time by the engine's clock, which stamps log lines."""
    with translated(engine.address):
        return datetime.fromisoformat(engine.client.info()["SystemTime"])


def last_entries(
    engine: Engine, container_id: str, count: int, since: datetime | None = None
) -> tuple[tuple[datetime, str], ...]:
    """Return the last lines of a container's log, each with its time by the engine's clock.

    Args:
        since: leave out earlier lines.
    """
    began = None if since is None else since.timestamp()
    with translated(engine.address):
        log: bytes = engine.client.api.logs(container_id, tail=count, timestamps=True, since=began)
    entries, last = [], datetime.min.replace(tzinfo=UTC)
    for line in log.decode(errors="replace").splitlines():
        stamp, _, words = line.partition(" ")
        known = containers.moment(stamp)
        last = known or last
        entries.append((last, words if known else line))
    return tuple(entries)
