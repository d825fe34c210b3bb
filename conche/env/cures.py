"""Knows what to type after failures whose reason alone does not say it."""

from __future__ import annotations

import re
from pathlib import Path

from conche.backup.influx import CONFIG
from conche.engine import volumes
from conche.engine.connection import Engine
from conche.engine.containers import Container
from conche.engine.tailnet import IMAGE

__all__ = ["cure"]

KEPT_CONFIGURATION = re.compile(r'config name "[^"]*" already exists')
"""What InfluxDB's setup says when its data are new and its configuration is not."""


REFUSED_KEY = re.compile(r"authkey (already used|expired)|invalid (pre )?auth key|parse auth-key|invalid key", re.I)
"""What control servers say of a key that lets nobody join."""

TAGLESS = re.compile(r"oauth authkeys require --advertise-tags")

UNKNOWN_AUTHORITY = re.compile(r"x509: certificate signed by unknown authority")


def cure(engine: Engine, container: Container, reason: str) -> str:
    """Return the command that removes the reason why a container failed, if it is a known one; it deletes nothing."""
    if KEPT_CONFIGURATION.search(reason):
        place, file = volumes.at(engine, container.id, CONFIG) or "VOLUME", f"{CONFIG}/influx-configs"
        return (
            f"docker run --rm --entrypoint mv --volume {place}:{CONFIG} {container.image} {file} {file}.before"
            "    # its data are gone; this is of those"
        )
    return _of_sidecar(container, reason) if IMAGE.search(container.image) else ""


def _of_sidecar(container: Container, reason: str) -> str:
    if UNKNOWN_AUTHORITY.search(reason):
        return "write CA_BUNDLE=FILE into .env, with the authority of its control server in that file"
    if TAGLESS.search(reason):
        return "write TAILNET_ARGS=--advertise-tags=tag:NAME into .env, with a tag of its OAuth client"
    files = [Path(bind) for bind in container.binds if bind.endswith(".txt")]
    if REFUSED_KEY.search(reason) and len(files) == 1:
        return f"invoke secrets.set {files[0].stem}    # a new key"
    return ""
