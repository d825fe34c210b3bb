"""Preserves a container as a twin that never starts, while Compose replaces the container.

Compose removes a container before it starts its replacement, and the engine may refuse to start that: no such user, no
such device, no such program. The twin has the whole definition of the old container, including its volumes and image.
It stays in the engine, where it is found again after a command was killed.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

from conche.engine import containers
from conche.engine.connection import Engine, translated
from conche.engine.containers import CONTAINER, JOINING, LABEL, Container
from conche.formats import TWIN

__all__ = ["BEFORE", "bring_back", "forget", "interrupted", "keep", "require_known", "twins"]

BEFORE = "-before"
"""Suffix of a twin's name and of its Compose project's."""

KEPT = "io.conche.kept"
"""Label of a twin with the id of its original container."""

RAN = f"{KEPT}.ran"
"""Label of a twin that says whether the original ran."""


def keep(engine: Engine, one: Container) -> None:
    """Make the twin of a container, unless it has one already."""
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
    """Return the twins of a project's containers, or of one service's."""
    found = containers.of_project(engine, project + BEFORE)
    return tuple(twin for twin in found if service in ("", twin.service))


def require_known(engine: Engine, project: str) -> None:
    """Ensure that this version understands the format of a project's twins.

    Raises:
        WrittenByNewer: a later version has made one.
    """
    for twin in twins(engine, project):
        TWIN.labelled(twin.labels, KEPT, twin.name)


def interrupted(left: Iterable[Container], found: Iterable[Container]) -> list[str]:
    """Return the services that a killed command was replacing and that do not run now.

    Args:
        left: containers, including the twins.
        found: the containers of the project.
    """
    running = {one.service for one in found if one.state == "running"}
    return sorted({one.service for one in left if one.project.endswith(BEFORE)} - running)


def forget(engine: Engine, project: str, service: str) -> None:
    """Remove the twins of a service."""
    for twin in twins(engine, project, service):
        containers.remove(engine, twin.id)


def bring_back(engine: Engine, project: str, service: str) -> None:
    """Restore a service's original containers from its twins, and remove the twins.

    An original that is made again has another id. What is in its network, processes or memory is made again with it.
    Where one should be in those of a container that has gone, whose successor does not run, nothing is done: it comes
    back with that.
    """
    every, found = twins(engine, project), containers.of_project(engine, project)
    kept = {twin.labels[KEPT]: twin for twin in every if twin.service == service}
    lost = {other for twin in kept.values() for other in twin.joins} - {one.id for one in found}
    owners = {twin.labels[KEPT]: twin.service for twin in every}
    running = {one.service: one.id for one in reversed(found) if one.state == "running"}
    successors = {old: running.get(owners[old], "") for old in lost if old in owners}
    if not kept or not all(successors.values()):
        return
    there = {one.id: one for one in found if one.service == service}
    _remove(engine, (one for one in there.values() if one.id not in kept))
    moved = {old: _restore(engine, project, twin, there.get(old), successors) for old, twin in kept.items()}
    first = next(iter(moved.values()))
    _take_along(engine, project, {**dict.fromkeys(there, first), **moved})
    forget(engine, project, service)


def _remove(engine: Engine, found: Iterable[Container]) -> None:
    for one in found:
        containers.stop(engine, one)
        containers.remove(engine, one.id)


def _take_along(engine: Engine, project: str, moved: Mapping[str, str]) -> None:
    """Make what is in the network, processes or memory of containers again, in those of their successors.

    Args:
        moved: id of a container -> id of the one in its place; the same where it is still there.
    """
    gone = {old for old, new in moved.items() if old != new}
    joined = [one for one in containers.of_project(engine, project) if gone.intersection(one.joins)]
    for one in joined:
        if not twins(engine, project, one.service):
            keep(engine, one)
    _remove(engine, joined)
    again = [twin for twin in twins(engine, project) if gone.intersection(twin.joins)]
    identities = {twin.labels[KEPT]: _restore(engine, project, twin, None, moved) for twin in again}
    if again:
        first = {twin.service: identities[twin.labels[KEPT]] for twin in reversed(again)}
        _take_along(engine, project, {**{one.id: first.get(one.service, "") for one in joined}, **identities})
    for name in {twin.service for twin in again}:
        forget(engine, project, name)


def _restore(engine: Engine, project: str, twin: Container, old: Container | None, moved: Mapping[str, str]) -> str:
    """Restore the original of a twin, and return its id; `old` is the original container if it still exists."""
    name = twin.name.removesuffix(BEFORE)
    if old is not None and old.name != name:
        with translated(engine.address):
            engine.client.api.rename(old.id, name)
    identity = old.id if old is not None else _again(engine, project, twin, name, moved)
    if twin.labels.get(RAN) == str(True):
        containers.start(engine, identity)
    return identity


def _again(engine: Engine, project: str, twin: Container, name: str, moved: Mapping[str, str]) -> str:
    with translated(engine.address):
        attributes = engine.client.api.inspect_container(twin.id)
    host = attributes["HostConfig"]
    for key in JOINING:
        target = str(host.get(key) or "").removeprefix(CONTAINER)
        host[key] = f"{CONTAINER}{moved[target]}" if target in moved else host.get(key)
    labels = {key: value for key, value in twin.labels.items() if not key.startswith(KEPT)}
    return _make(engine, attributes, name, {**labels, f"{LABEL}.project": project})


def _make(engine: Engine, attributes: Mapping[str, Any], name: str, labels: Mapping[str, str]) -> str:
    """Create a container with the same definition, networks and volumes, and return its id."""
    endpoints = _endpoints(attributes)
    config = {
        **attributes["Config"],
        "Labels": dict(labels),
        "Image": _image(engine, attributes),
        "HostConfig": _host(attributes),
        # Engines before 25 accept only one network when a container is created.
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
    """Return the image's name if it still means the same image, else its id; a build may have moved the name."""
    from conche.engine import images

    name = str(attributes["Config"]["Image"])
    found = images.find(engine, name)
    return name if found is not None and found.id == attributes["Image"] else str(attributes["Image"])


def _host(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the container's host settings, with anonymous volumes under the names that the engine gave them."""
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
    """Return what was requested of each network, without what the engine itself assigned."""
    if str(attributes["HostConfig"]["NetworkMode"]).startswith(("host", "none", "container:")):
        return {}
    identity, asked = attributes["Id"][:12], {}
    for network, given in (attributes["NetworkSettings"].get("Networks") or {}).items():
        kept = {key: given[key] for key in ("IPAMConfig", "Links", "DriverOpts") if given.get(key)}
        aliases = [alias for alias in given.get("Aliases") or [] if alias != identity]
        asked[network] = {**kept, **({"Aliases": aliases} if aliases else {})}
    return asked
