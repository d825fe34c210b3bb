"""Runs the registry's garbage collection, which deletes layers that no manifest refers to any more.

It must not run during uploads, whose layers no manifest refers to yet, so the registry is stopped meanwhile. A second
container, created before the registry stops and removed once it runs again, tells the next command about a kill.
Source: https://distribution.github.io/distribution/about/garbage-collection/
"""

from __future__ import annotations

from collections.abc import Callable

from conche.addresses import address_of
from conche.engine import containers, oneoff
from conche.engine.connection import Engine
from conche.engine.containers import Container
from conche.engine.ports import Port, publishers
from conche.errors import Refused
from conche.output import Progress
from conche.process import signals_deferred
from conche.stack import is_here
from conche.supply.registry import Registry

__all__ = ["collect", "located", "resume"]

LABEL = "io.conche.collects"
"""Label of the collecting container, with the id of the registry's container."""

COLLECT = (
    'exec "$(command -v registry || command -v docker-registry)" garbage-collect '
    '"${REGISTRY_CONFIGURATION:-/etc/docker/registry/config.yml}"'
)
"""The official image calls the program `registry`, Debian `docker-registry`."""

STARTING = 30.0
"""Seconds allowed for the registry's first answer."""


def collect(registry: Registry, progress: Progress) -> None:
    """Stop the registry, collect garbage with its own image, settings and volumes, and always start it again.

    Raises:
        Refused: the registry is not a container of this engine.
        ToolFailed: the collection failed; the registry runs again.
    """
    engine = Engine()
    found = located(registry.host)
    made = oneoff.beside(engine, found.id, ["/bin/sh", "-c", COLLECT], {LABEL: found.id})
    try:
        progress.step("stopping the registry for its garbage collection")
        containers.stop(engine, found)
        done = oneoff.run(engine, made, progress.detail)
    finally:
        with signals_deferred():
            _restore(engine, found.id, made)
    registry.wait(STARTING)
    progress.step("the registry runs again")
    done.require("the registry's garbage collection")


def resume(registry: Registry, say: Callable[[str], None]) -> None:
    """Start the registry again if a killed collection has left it stopped."""
    engine = Engine()
    for made, collected in oneoff.left(engine, LABEL).items():
        say("an earlier garbage collection was interrupted: starting the registry again")
        _restore(engine, collected, made)
        registry.wait(STARTING)


def _restore(engine: Engine, registry: str, made: str) -> None:
    """Start the registry, after ending the collection, which would treat layers uploaded from then on as garbage."""
    containers.end(engine, made)
    found = containers.read(engine, registry)
    if found is not None and found.state != "running":
        containers.restart(engine, found)
    containers.remove(engine, made)


def located(host: str) -> Container:
    """Return the container of a registry that this engine runs.

    Raises:
        Refused: the registry runs somewhere else.
    """
    engine = Engine()
    name, _, number = host.rpartition(":")
    found = None
    if is_here(host) and number.isdigit():
        port = Port(address_of(name), int(number))
        ids = [one.id for one in publishers(engine) if one.has(port)]
        found = containers.read(engine, ids[0]) if ids else None
    if found is None:
        raise Refused(
            "registry-not-here",
            f"{host} is not a container on this engine, so its garbage cannot be collected from here.",
            looked_at=[engine.address],
        )
    return found
