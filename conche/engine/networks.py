"""Lists, creates and removes networks and volumes of an engine."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from conche.engine.connection import Engine, translated

__all__ = [
    "Made",
    "create",
    "made_by",
    "members",
    "names",
    "overlays",
    "remove",
    "remove_new",
    "remove_of_project",
    "remove_volume",
    "volumes",
]

MADE_BY = {"io.conche.made-by": "conche"}
"""Label of the networks that `create` makes."""


@dataclass(frozen=True)
class Made:
    """The names of a Compose project's networks and volumes."""

    networks: tuple[str, ...]
    volumes: tuple[str, ...]


def made_by(engine: Engine, project: str) -> Made:
    """Return the networks and volumes that carry a project's label."""
    label = {"label": [f"com.docker.compose.project={project}"]}
    with translated(engine.address):
        networks = engine.client.api.networks(filters=label)
        kept = engine.client.api.volumes(filters=label).get("Volumes") or []
    return Made(tuple(sorted(one["Name"] for one in networks)), tuple(sorted(one["Name"] for one in kept)))


def names(engine: Engine) -> frozenset[str]:
    """Return the names of all networks."""
    with translated(engine.address):
        return frozenset(network["Name"] for network in engine.client.api.networks())


def overlays(engine: Engine) -> frozenset[str]:
    """Return the names of a swarm's networks."""
    with translated(engine.address):
        return frozenset(network["Name"] for network in engine.client.api.networks(filters={"driver": "overlay"}))


def members(engine: Engine, name: str) -> tuple[str, ...]:
    """Return the names of the containers in a network."""
    with translated(engine.address):
        inspected = engine.client.api.inspect_network(name)
    return tuple(sorted(member["Name"] for member in (inspected.get("Containers") or {}).values()))


def create(engine: Engine, name: str) -> None:
    """Create a bridge network, unless one of that name exists."""
    if name not in names(engine):
        with translated(engine.address):
            engine.client.api.create_network(name, driver="bridge", labels=MADE_BY)


def remove(engine: Engine, name: str) -> None:
    """Remove a network; it may be gone already."""
    if name in names(engine):
        with translated(engine.address):
            engine.client.api.remove_network(name)


def remove_new(engine: Engine, project: str, before: Collection[str]) -> None:
    """Remove a Compose project's networks that are not in `before`, except those in use."""
    import docker.errors

    with translated(engine.address):
        for network in engine.client.api.networks(filters={"label": [f"com.docker.compose.project={project}"]}):
            if network["Name"] not in before:
                with contextlib.suppress(docker.errors.APIError):
                    engine.client.api.remove_network(network["Id"])


def remove_of_project(engine: Engine, project: str) -> None:
    """Remove a Compose project's networks and volumes."""
    label = {"label": [f"com.docker.compose.project={project}"]}
    with translated(engine.address):
        for network in engine.client.api.networks(filters=label):
            engine.client.api.remove_network(network["Id"])
        for volume in engine.client.api.volumes(filters=label).get("Volumes") or []:
            engine.client.api.remove_volume(volume["Name"])


def remove_volume(engine: Engine, name: str) -> None:
    """Delete a volume with its data; it may be gone already."""
    import docker.errors

    with translated(engine.address), contextlib.suppress(docker.errors.NotFound):
        engine.client.api.remove_volume(name)


def volumes(engine: Engine, wanted: Sequence[str]) -> tuple[str, ...]:
    """Return those of `wanted` that are volumes of the engine."""
    with translated(engine.address):
        present = {volume["Name"] for volume in engine.client.api.volumes().get("Volumes") or []}
    return tuple(name for name in wanted if name in present)
