"""What env.up and env.update are asked for."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["UpRequest"]


@dataclass(frozen=True)
class UpRequest:
    """What is to be brought up, and how.

    Attributes:
        build: build the images of this repository even if they exist.
        timeout: seconds to wait for health; None for what the healthchecks allow.
        only: one service; None for the whole environment.
        local: if this deploys, deploy what the engine has, as `env.deploy --local` does.
    """

    build: bool = False
    timeout: float | None = None
    only: str | None = None
    local: bool = False
