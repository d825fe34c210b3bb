"""Networks and volumes of an engine."""

from __future__ import annotations

from collections.abc import Sequence

from conche.engine.connection import Engine, translated

__all__ = ["create", "members", "names", "remove", "volumes"]

MADE_BY = {"io.conche.made-by": "conche"}
"""Label of a network that was made here."""


def names(engine: Engine) -> frozenset[str]:
    """The names of all networks."""
    with translated(engine.address):
        return frozenset(network["Name"] for network in engine.client.api.networks())


def members(engine: Engine, name: str) -> tuple[str, ...]:
    """The names of the containers in a network."""
    with translated(engine.address):
        inspected = engine.client.api.inspect_network(name)
    return tuple(sorted(member["Name"] for member in (inspected.get("Containers") or {}).values()))


def create(engine: Engine, name: str) -> None:
    """Make a bridge network; one of that name that is there already stays as it is."""
    if name not in names(engine):
        with translated(engine.address):
            engine.client.api.create_network(name, driver="bridge", labels=MADE_BY)


def remove(engine: Engine, name: str) -> None:
    """Remove a network that nothing uses."""
    with translated(engine.address):
        engine.client.api.remove_network(name)


def volumes(engine: Engine, wanted: Sequence[str]) -> tuple[str, ...]:
    """Those of `wanted` that are volumes of the engine."""
    with translated(engine.address):
        present = {volume["Name"] for volume in engine.client.api.volumes().get("Volumes") or []}
    return tuple(name for name in wanted if name in present)
