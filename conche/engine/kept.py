"""Containers kept, by a twin that never starts, while Compose puts successors in their place.

Compose removes a container before it starts the one that is to replace it, and the engine may refuse to start that: no
such user, no such device, no such program. The twin holds everything the old one was made of, its volumes and its image
too, and stands in the engine, where a command that was killed finds it again.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

from conche.engine import containers
from conche.engine.connection import Engine, translated
from conche.engine.containers import LABEL, Container
from conche.formats import TWIN

__all__ = ["BEFORE", "bring_back", "forget", "interrupted", "keep", "require_known", "twins"]

BEFORE = "-before"
"""What the name of a twin, and of the Compose project it belongs to, ends with."""

KEPT = "io.conche.kept"
"""Label of a twin: the id of the container it stands for."""

RAN = f"{KEPT}.ran"
"""Label of a twin: whether that container ran."""


def keep(engine: Engine, one: Container) -> None:
    """Make the twin of a container; one that is there already is as good."""
    if any(twin.labels.get(KEPT) == one.id for twin in twins(engine, one.project, one.service)):
        return
    with translated(engine.address):
        attributes = engine.client.api.inspect_container(one.id)
    labels = {
        **(attributes["Config"].get("Labels") or {}),
        f"{LABEL}.project": one.project + BEFORE,
        KEPT: one.id,
        RAN: str(one.state in ("running", "restarting")),
        **TWIN.labels(KEPT),
    }
    _make(engine, attributes, one.name + BEFORE, labels)


def twins(engine: Engine, project: str, service: str = "") -> tuple[Container, ...]:
    """The twins of a project's containers, or of one service's."""
    found = containers.of_project(engine, project + BEFORE)
    return tuple(twin for twin in found if service in ("", twin.service))


def require_known(engine: Engine, project: str) -> None:
    """See that this version knows what the twins of a project stand for.

    Raises:
        WrittenByNewer: a later version has made one.
    """
    for twin in twins(engine, project):
        TWIN.labelled(twin.labels, KEPT, twin.name)


def interrupted(left: Iterable[Container], found: Iterable[Container]) -> list[str]:
    """Services that were to be replaced when a command was killed, and of which nothing runs now.

    Args:
        left: with the twins among them.
        found: the containers of the project.
    """
    running = {one.service for one in found if one.state == "running"}
    return sorted({one.service for one in left if one.project.endswith(BEFORE)} - running)


def forget(engine: Engine, project: str, service: str) -> None:
    """Remove the twins of a service."""
    for twin in twins(engine, project, service):
        containers.remove(engine, twin.id)


def bring_back(engine: Engine, project: str, service: str) -> None:
    """Have a service's containers be again what its twins stand for, and remove the twins."""
    kept = {twin.labels[KEPT]: twin for twin in twins(engine, project, service)}
    if not kept:
        return
    there = {one.id: one for one in containers.of_project(engine, project) if one.service == service}
    for one in there.values():
        if one.id not in kept:
            containers.stop(engine, one.id, one.stop_timeout)
            containers.remove(engine, one.id)
    for identity, twin in kept.items():
        _restore(engine, project, twin, there.get(identity))
    forget(engine, project, service)


def _restore(engine: Engine, project: str, twin: Container, old: Container | None) -> None:
    """Have the container that a twin stands for, as it was; `old` is what is left of it."""
    name = twin.name.removesuffix(BEFORE)
    if old is not None and old.name != name:
        with translated(engine.address):
            engine.client.api.rename(old.id, name)
    identity = old.id if old is not None else _again(engine, project, twin, name)
    if twin.labels.get(RAN) == str(True):
        containers.start(engine, identity)


def _again(engine: Engine, project: str, twin: Container, name: str) -> str:
    with translated(engine.address):
        attributes = engine.client.api.inspect_container(twin.id)
    labels = {key: value for key, value in twin.labels.items() if not key.startswith(KEPT)}
    return _make(engine, attributes, name, {**labels, f"{LABEL}.project": project})


def _make(engine: Engine, attributes: Mapping[str, Any], name: str, labels: Mapping[str, str]) -> str:
    """Make a container of the same definition, in the same networks, on the same volumes; its id."""
    endpoints = _endpoints(attributes)
    config = {
        **attributes["Config"],
        "Labels": dict(labels),
        "Image": _image(engine, attributes),
        "HostConfig": _host(attributes),
        # Engines before 25 take one network when a container is made.
        "NetworkingConfig": {"EndpointsConfig": dict(list(endpoints.items())[:1])},
    }
    if config.get("Hostname") == attributes["Id"][:12] or not endpoints:
        config.pop("Hostname", None)
    with translated(engine.address):
        api: Any = engine.client.api
        made = str(api.create_container_from_config(config, name)["Id"])
        for network, given in list(endpoints.items())[1:]:
            api.connect_container_to_network(
                made,
                network,
                aliases=given.get("Aliases"),
                links=given.get("Links"),
                ipv4_address=given.get("IPAMConfig", {}).get("IPv4Address"),
                ipv6_address=given.get("IPAMConfig", {}).get("IPv6Address"),
            )
    return made


def _image(engine: Engine, attributes: Mapping[str, Any]) -> str:
    """By the name it was made from where that still means the same; a build may have given the name away."""
    from conche.engine import images

    name = str(attributes["Config"]["Image"])
    found = images.find(engine, name)
    return name if found is not None and found.id == attributes["Image"] else str(attributes["Image"])


def _host(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The engine's settings of it, with volumes that have no name of their own by the name they were given."""
    host = copy.deepcopy(dict(attributes["HostConfig"]))
    given = {one["Destination"]: one["Name"] for one in attributes.get("Mounts") or [] if one["Type"] == "volume"}
    for mount in host.get("Mounts") or []:
        if mount["Type"] == "volume" and not mount.get("Source"):
            mount["Source"] = given[mount["Target"]]
    binds = list(host.get("Binds") or [])
    known = {one.split(":")[1] for one in binds} | {one["Target"] for one in host.get("Mounts") or []}
    host["Binds"] = [*binds, *(f"{name}:{target}" for target, name in given.items() if target not in known)]
    return host


def _endpoints(attributes: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What was asked for of each network, without what the engine itself has given."""
    if str(attributes["HostConfig"]["NetworkMode"]).startswith(("host", "none", "container:")):
        return {}
    identity, asked = attributes["Id"][:12], {}
    for network, given in (attributes["NetworkSettings"].get("Networks") or {}).items():
        kept = {key: given[key] for key in ("IPAMConfig", "Links", "DriverOpts") if given.get(key)}
        aliases = [alias for alias in given.get("Aliases") or [] if alias != identity]
        asked[network] = {**kept, **({"Aliases": aliases} if aliases else {})}
    return asked
