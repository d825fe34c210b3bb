"""Observes what an environment should be and what it is, once, before anything is decided."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from conche.engine import containers, images, kept, networks
from conche.engine.asking import asked_together
from conche.engine.compose import Compose, Configuration
from conche.engine.connection import Engine
from conche.engine.containers import Container
from conche.engine.hashes import GONE
from conche.engine.images import LocalImage
from conche.engine.service import Service
from conche.engine.tailnet import Sidecar
from conche.env.contents import may_have_contents, outdated
from conche.env.definitions import altered_services
from conche.errors import NotFound, did_you_mean
from conche.stack import TRIAL, Stack
from conche.supply.own import in_registry, own_images

__all__ = ["Observed", "contents_of", "glance", "look", "observe", "service_of"]


@dataclass(frozen=True)
class Observed:
    """An environment at one moment.

    Attributes:
        name: the environment's name.
        configuration: what the Compose files ask for.
        containers: those that exist, in any state.
        images: reference -> image id on the engine, None if it is missing.
        contents: image id -> digest of its content, in case containers run from an id other than their reference's.
        altered: service -> keys of its definition that differ from what its container was made from, as far as known.
        outdated: service -> a config or secret whose content in its containers is out of date, in words.
        missing_networks: external networks that are not on the engine.
        leftovers: containers of an interrupted trial or replacement.
        own: reference -> its name in stack.yaml, or the service that describes it, for the images built here.
        unregistered: those of `own` that no registry has: they are built, and never pulled.
        release: the release that serves; empty if the environment is not run by releases.
        changed: services whose files differ from that release.
        interrupted: a release that was killed.
        optional: services of inactive profiles that have containers all the same.
        astray: what its users are answered, if it is not the release's answer; empty if all is well.
        unread: why its files could not be read, if only the engine could be asked.
        oneoff: containers that `docker compose run` has made; only env.status looks for them.
        sidecars: its Tailscale sidecars; only asked for what is reported.
        spared: services that are restarted for none that they follow: the edge, and what it serves.
    """

    name: str
    configuration: Configuration
    containers: tuple[Container, ...]
    images: Mapping[str, str | None]
    missing_networks: tuple[str, ...]
    leftovers: tuple[Container, ...]
    own: Mapping[str, str]
    release: str = ""
    changed: tuple[str, ...] = ()
    interrupted: str = ""
    astray: str = ""
    contents: Mapping[str, str] = field(default_factory=dict)
    altered: Mapping[str, Sequence[str]] = field(default_factory=dict)
    outdated: Mapping[str, str] = field(default_factory=dict)
    unregistered: frozenset[str] = frozenset()
    optional: frozenset[str] = frozenset()
    unread: str = ""
    oneoff: tuple[Container, ...] = ()
    sidecars: tuple[Sidecar, ...] = ()
    spared: frozenset[str | None] = frozenset()

    def same_image(self, one: str, other: str) -> bool:
        """Return whether two image ids have the same content."""
        return self.contents.get(one, one) == self.contents.get(other, other)

    def of(self, service: str) -> tuple[Container, ...]:
        """Return the containers of one service."""
        return tuple(container for container in self.containers if container.service == service)


def glance(stack: Stack, name: str, compose: Compose) -> Observed | None:
    """Observe at less cost if every container runs and carries the hash of its definition; else return None.

    What was made from the same definition need not be rendered again, which saves the slower of two calls of Compose.
    Configs, secrets and the number of containers are not part of a definition.
    """
    if may_have_contents(compose.files, stack.secrets) or _may_be_scaled(compose.files):
        return None
    with ThreadPoolExecutor(1) as pool:
        hashing = pool.submit(compose.hashes)
        present = look(compose)
        hashes = hashing.result()
    found = present.containers
    if present.leftovers or sorted((c.service, c.config_hash) for c in found) != sorted(hashes.items()):
        return None
    # Only its definition says whether a container that has ended should have.
    if any(container.state != "running" for container in found):
        return None
    return _observed(stack, name, compose, _as_made(compose, found), present)


def _as_made(compose: Compose, found: Sequence[Container], volumes: Sequence[str] = ()) -> Configuration:
    """Reconstruct what the files say, as far as the containers made from them tell."""
    hashes: dict[str, set[str]] = {}
    for one in found:
        hashes.setdefault(one.service, set()).add(one.config_hash)
    services = {
        one.service: Service(one.service, one.image, frozenset(hashes[one.service]), follows=one.follows)
        for one in found
    }
    return Configuration(compose.project, services, (), tuple(volumes))


def _may_be_scaled(files: Sequence[Path]) -> bool:
    return any(re.search(r"\b(scale|replicas)[\"']?\s*:", file.read_text(encoding="utf-8")) for file in files)


def observe(stack: Stack, name: str, compose: Compose, *, passed: Collection[str] = (), asks: bool = True) -> Observed:
    """Observe everything that `env.up` and `env.status` decide on.

    Args:
        passed: ids of containers that have just passed their healthchecks, and need not be asked again.
        asks: whether to run the healthchecks of containers of which the engine does not know yet if they are healthy.

    Raises:
        Unreachable: no engine, or no Compose v2.
        Refused: the Compose files are invalid.
    """
    if compose.unread:
        present = look(compose, asks=asks)
        known = _as_made(compose, present.containers, networks.made_by(compose.engine, compose.project).volumes)
        return _observed(stack, name, compose, known, present)
    with ThreadPoolExecutor(1) as pool:
        # Compose renders in its own processes meanwhile; importing and asking the SDK takes as long.
        rendering = pool.submit(compose.configuration)
        present = look(compose, passed=passed, asks=asks)
        configuration = _confirmed(compose, rendering.result(), present.containers)
    return _observed(stack, name, compose, configuration, present)


def _confirmed(compose: Compose, configuration: Configuration, found: Sequence[Container]) -> Configuration:
    """Add the hashes of containers that Compose itself would leave as they are.

    Compose is only asked about containers with an unexpected hash.
    """
    unknown = {
        one.name: one
        for one in found
        if one.service in configuration.services and one.config_hash not in configuration.services[one.service].hashes
    }
    if not unknown:
        return configuration
    current = {name for name, said in compose.up_would().items() if GONE.isdisjoint(said)}
    # A container made without its dependencies in sight is only current if Compose is asked in the same way.
    alone = {one.service for name, one in unknown.items() if name not in current and configuration.needs(one.service)}
    with ThreadPoolExecutor(len(alone) or 1) as pool:
        for answer in pool.map(lambda service: compose.up_would(service, alone=True), sorted(alone)):
            current |= {name for name, said in answer.items() if GONE.isdisjoint(said)}
    services = dict(configuration.services)
    for one in (one for name, one in unknown.items() if name in current):
        services[one.service] = replace(services[one.service], hashes=services[one.service].hashes | {one.config_hash})
    return replace(configuration, services=services)


class Present(NamedTuple):
    """The containers of a project.

    Attributes:
        containers: those of its services.
        leftovers: what an interrupted trial or replacement has left.
    """

    containers: tuple[Container, ...]
    leftovers: tuple[Container, ...]


def look(compose: Compose, *, passed: Collection[str] = (), asks: bool = True) -> Present:
    """Return the containers of a project.

    Args:
        passed, asks: as for `observe`.
    """
    found = containers.of_project(compose.engine, compose.project)
    halves = tuple(container for container in found if container.half_made)
    whole = tuple(container for container in found if not container.half_made)
    seen = asked_together(compose.engine, whole, passed) if asks else whole
    trials = containers.of_project(compose.engine, compose.project + TRIAL)
    return Present(seen, (*trials, *halves, *kept.twins(compose.engine, compose.project)))


def contents_of(engine: Engine, found: Iterable[Container], there: Mapping[str, LocalImage | None]) -> dict[str, str]:
    """Return image id -> digest of its content: of these images, and of others that containers run from.

    Args:
        there: reference -> the image on the engine.
    """
    known = {image.id: image.contents for image in there.values() if image}
    others = {container.image_id for container in found} - known.keys()
    looked = {one: images.find(engine, one) for one in others}
    return {**known, **{one: image.contents for one, image in looked.items() if image}}


def _observed(
    stack: Stack,
    name: str,
    compose: Compose,
    configuration: Configuration,
    present: Present,
) -> Observed:
    found = present.containers
    references = {service.image for service in configuration.services.values()}
    ids = {reference: images.find(compose.engine, reference) for reference in sorted(references)}
    described = own_images(stack, name, compose, configuration)
    own = {one: image.name for one, image in described.items() if one in references}
    external = configuration.external_networks
    known = networks.names(compose.engine) if external else frozenset()
    others = {container.service for container in found} - configuration.services.keys()
    return Observed(
        name=name,
        configuration=configuration,
        containers=found,
        images={reference: image.id if image else None for reference, image in ids.items()},
        missing_networks=tuple(network for network in external if network not in known),
        leftovers=present.leftovers,
        own=own,
        unregistered=frozenset(one for one in own if not in_registry(stack, one)),
        optional=compose.every_service() & others if others else frozenset(),
        contents=contents_of(compose.engine, found, ids),
        altered=altered_services(stack.name, compose.engine, configuration, found),
        outdated=outdated(compose, configuration, found, stack.secrets),
    )


def service_of(configuration: Configuration, name: str) -> Service:
    """Return the service with this name.

    Raises:
        NotFound: there is none; the error lists those there are.
    """
    if name not in configuration.services:
        raise NotFound(
            "no-such-service",
            f"The environment has no service {name!r}.{did_you_mean(name, configuration.services)}",
            looked_at=[f"services: {', '.join(configuration.services)}"],
        )
    return configuration.services[name]
