"""What containers have written, with when."""

from __future__ import annotations

from datetime import UTC, datetime

from conche.engine import containers
from conche.engine.connection import Engine, translated

__all__ = ["last_entries", "now"]


def now(engine: Engine) -> datetime:
    """This moment by the engine's clock, which stamps what containers write."""
    with translated(engine.address):
        return datetime.fromisoformat(engine.client.info()["SystemTime"])


def last_entries(
    engine: Engine, container_id: str, count: int, since: datetime | None = None
) -> tuple[tuple[datetime, str], ...]:
    """The end of a container's log, each line with when it was written, by the engine's clock.

    Args:
        since: lines from before are left out.
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
