"""invoke env.update"""

from __future__ import annotations

from conche.command import Invocation
from conche.env.request import UpRequest
from conche.env.up import converge
from conche.outcome import Outcome

__all__ = ["update"]


def update(call: Invocation, name: str, service: str, *, build: bool, timeout: float | None) -> Outcome:
    """Pull or build the image of one service, then replace that service alone."""
    return converge(call, name, UpRequest(build, timeout, only=service))
