"""What a release does to one service."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CHANGED", "Change"]

CHANGED = "its definition changed"
"""A cause to which what has changed is added, as far as known."""


@dataclass(frozen=True)
class Change:
    """What becomes of one service.

    Attributes:
        strategy: beside (new containers beside the old ones, then the edge switches), replace (tried beside the old
            one, then replaced), recreate (stopped first), restart, create, start, or keep.
        cause: why; empty for keep.
        downtime: what its users notice, in words.
    """

    service: str
    strategy: str
    cause: str
    downtime: str
