"""Services that wait for the health of others that have none: Compose begins, and then gives up."""

from __future__ import annotations

from collections.abc import Collection

from conche.engine import images
from conche.engine.compose import Configuration
from conche.engine.connection import Engine
from conche.errors import Refused

__all__ = ["never_healthy"]


def never_healthy(engine: Engine, configuration: Configuration, names: Collection[str]) -> Refused | None:
    """Return the error for the first of these services that waits for the health of one without a healthcheck.

    Those whose images are still to be had are left out: only an image tells whether it has one.
    """
    bodies = configuration.rendered["services"]
    for name in names:
        for other, how in (bodies[name].get("depends_on") or {}).items():
            awaited = configuration.services.get(other)
            if awaited is None or how.get("condition") != "service_healthy" or how.get("required") is False:
                continue
            if awaited.healthcheck is not None or awaited.replicas == 0:
                continue
            image = None if bodies[other].get("healthcheck") else images.find(engine, awaited.image)
            if bodies[other].get("healthcheck") or (image is not None and not image.checked):
                return Refused(
                    "never-healthy",
                    f"{name} waits until {other} is healthy, and {other} has no healthcheck.",
                    looked_at=[f"services.{name}.depends_on.{other}.condition", f"the image {awaited.image}"],
                    next_command=f"give {other} a `healthcheck`, or wait for it with condition: service_started",
                )
    return None
