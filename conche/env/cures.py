"""Knows what to type after failures whose reason alone does not say it."""

from __future__ import annotations

import re

from conche.backup.influx import CONFIG
from conche.engine import volumes
from conche.engine.connection import Engine
from conche.engine.containers import Container

__all__ = ["cure"]

KEPT_CONFIGURATION = re.compile(r'config name "[^"]*" already exists')
"""What InfluxDB's setup says when its data are new and its configuration is not."""


def cure(engine: Engine, container: Container, reason: str) -> str:
    """Return the command that removes the reason why a container failed, if it is a known one; it deletes nothing."""
    if not KEPT_CONFIGURATION.search(reason):
        return ""
    place, file = volumes.at(engine, container.id, CONFIG) or "VOLUME", f"{CONFIG}/influx-configs"
    return (
        f"docker run --rm --entrypoint mv --volume {place}:{CONFIG} {container.image} {file} {file}.before"
        "    # its data are gone; this is of those"
    )
