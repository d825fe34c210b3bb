"""Takes an inventory of the images in the registry and on the engines, and of those that run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime

from conche.engine import containers, images, swarm
from conche.engine.connection import Engine
from conche.engine.images import LocalImage
from conche.errors import ConcheError, NotFound
from conche.stack import Stack
from conche.supply.description import CREATED, describe, moment
from conche.supply.reference import parse
from conche.supply.registry import ImageManifest, Registry

__all__ = [
    "CREATED",
    "REVISION",
    "STACK",
    "Inventory",
    "Kept",
    "Running",
    "age",
    "digests",
    "engines",
    "observe",
    "own_here",
    "own_names",
    "running",
]

REVISION = "org.opencontainers.image.revision"
"""Label with the git revision. Source: https://github.com/opencontainers/image-spec/blob/main/annotations.md"""

STACK = "io.conche.stack"
"""Label with the stack's name: images.prune may remove an image with it that has lost its last tag."""

AT_ONCE = 8
"""Requests sent to a registry at a time."""


@dataclass(frozen=True)
class Kept:
    """One tag of a repository in the registry.

    Attributes:
        digest: its manifest's digest.
        size: bytes of its compressed layers, for every platform.
        created: RFC 3339; empty if unknown.
        parts: digests of the manifests that an index lists.
        problem: why some of it is unknown.
    """

    repository: str
    tag: str
    digest: str
    size: int
    created: str
    revision: str
    parts: frozenset[str] = frozenset()
    problem: str = ""


@dataclass(frozen=True)
class Running:
    """An image of this stack that a container of an environment was made from.

    Attributes:
        digests: its manifests' digests, as far as the engine knows them.
        state: the container's state: running, exited…
        health: the container's health: healthy, unhealthy, starting, or none.
        tag: the tag that the container's image was named by; empty if it was named by digest.
        digest: the digest that it was named by; empty if it was named by tag.
    """

    environment: str
    service: str
    repository: str
    id: str
    digests: frozenset[str]
    revision: str
    state: str = "running"
    health: str = "none"
    tag: str = ""
    digest: str = ""


@dataclass(frozen=True)
class Inventory:
    """An inventory of images.

    Attributes:
        kept: the registry's tags; empty if it could not be asked.
        local: engine address -> its images of this stack's repositories.
        loose: engine address -> images of this stack that have lost their last tag.
        used: engine address -> image id -> a container made from it, of any project.
        problems: errors of the registry and of engines that could not be asked.
    """

    kept: tuple[Kept, ...]
    local: Mapping[str, tuple[LocalImage, ...]]
    running: tuple[Running, ...]
    problems: tuple[ConcheError, ...] = ()
    loose: Mapping[str, tuple[LocalImage, ...]] = field(default_factory=dict)
    used: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def observe(stack: Stack, registry: Registry | None) -> Inventory:
    """Take the inventory of the registry, if there is one, the engines, and the environments."""
    problems: list[ConcheError] = []
    kept: list[Kept] = []
    repositories = sorted({image.repository for image in stack.images.values()})
    try:
        for repository in repositories if registry else ():
            assert registry is not None
            kept += _kept(registry, repository)
    except ConcheError as error:
        problems.append(error)
    local: dict[str, tuple[LocalImage, ...]] = {}
    loose: dict[str, tuple[LocalImage, ...]] = {}
    used: dict[str, Mapping[str, str]] = {}
    found: list[Running] = []
    for engine, names in engines(stack):
        try:
            used[engine.address] = containers.users(engine)
            loose[engine.address] = images.dangling(engine, f"{STACK}={stack.name}")
            local[engine.address] = own_here(stack, engine)
            found += [one for name in names for one in running(stack, engine, name)]
        except ConcheError as error:
            problems.append(error)
    return Inventory(tuple(kept), local, tuple(found), tuple(problems), loose, used)


def own_names(stack: Stack) -> dict[str, str]:
    """Return the images that stack.yaml describes: the engine's name without tag -> repository."""
    host = f"{stack.registry}/" if stack.registry else ""
    return {f"{host}{image.repository}": image.repository for image in stack.images.values()}


def own_here(stack: Stack, engine: Engine) -> tuple[LocalImage, ...]:
    """Return this stack's own images on an engine, found by the names in stack.yaml and by the builds' label."""
    named = [one for name in own_names(stack) for one in images.of_repository(engine, name)]
    ours = images.labelled(engine, f"{STACK}={stack.name}")
    return tuple({one.id: one for one in (*named, *ours)}.values())


def engines(stack: Stack) -> list[tuple[Engine, list[str]]]:
    """Return each engine once, with the environments on it."""
    grouped: dict[str, tuple[Engine, list[str]]] = {}
    for name, environment in stack.environments.items():
        engine = Engine(environment.engine)
        grouped.setdefault(engine.address, (engine, []))[1].append(name)
    return list(grouped.values())


def running(stack: Stack, engine: Engine, environment: str) -> list[Running]:
    """Return this stack's images that an environment's containers, in any state, or swarm services were made from.

    Raises:
        Unreachable: the environment is on a swarm, but the engine manages none.
    """
    if stack.environments[environment].swarm:
        return list(_on_swarm(stack, engine, environment))
    names = {parse(name).name: repository for name, repository in own_names(stack).items()}
    found = []
    for one in containers.of_project(engine, stack.project(environment)):
        container = containers.asked(engine, one)
        image = images.find(engine, container.image_id)
        named = parse(container.image)
        known = [parse(text).name for text in (image.tags + image.digests if image else ())]
        ours = set(known) if image and image.labels.get(STACK) == stack.name else set()
        for name in ({named.name, *known} & names.keys()) | ours:
            digests = frozenset(
                parse(text).digest for text in (image.digests if image else ()) if parse(text).name == name
            )
            repository = names.get(name) or parse(name).repository
            found.append(
                Running(
                    environment, container.service, repository, container.image_id, digests, container.revision,
                    container.state, container.health,
                    named.tag if named.name == name else "", named.digest if named.name == name else "",
                )
            )  # fmt: skip
    return found


def _on_swarm(stack: Stack, engine: Engine, environment: str) -> Iterator[Running]:
    """Yield the images of an environment's swarm services; a service that has not settled counts as starting."""
    names = {parse(name).name: repository for name, repository in own_names(stack).items()}
    for one in swarm.services(engine, stack.project(environment)):
        image = images.find(engine, one.image)
        known = [parse(text) for text in (one.image, *(image.tags + image.digests if image else ()))]
        for name in {at.name for at in known} & names.keys():
            asked = known[0] if known[0].name == name else parse(name, default_tag="")
            yield Running(
                environment,
                one.name,
                names[name],
                image.id if image else one.image,
                frozenset(at.digest for at in known if at.name == name and at.digest),
                image.labels.get(REVISION, "") if image else "",
                "running" if one.settled else "starting",
                tag=asked.tag,
                digest=asked.digest,
            )


def age(created: str, now: datetime) -> float | None:
    """Return the seconds since an RFC 3339 time; None if it is empty or the epoch, as in reproducible builds."""
    made = moment(created)
    return (now - made).total_seconds() if made else None


def digests(registry: Registry, repository: str) -> dict[str, str]:
    """Return each tag of a repository -> the digest of the manifest it means now."""
    return {tag: manifest.digest for tag, manifest in _manifests(registry, repository).items()}


def _kept(registry: Registry, repository: str) -> Iterable[Kept]:
    """Yield every tag of a repository; each digest's image is described only once."""
    manifests = _manifests(registry, repository)
    distinct = {manifest.digest: manifest for manifest in manifests.values()}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        read = pool.map(lambda manifest: describe(registry, repository, manifest), distinct.values())
        said = dict(zip(distinct, read, strict=True))
    for tag, manifest in manifests.items():
        one = said[manifest.digest]
        revision = one.labels.get(REVISION, "")
        yield Kept(repository, tag, manifest.digest, one.size, one.created, revision, one.parts, one.problem)


def _manifests(registry: Registry, repository: str) -> dict[str, ImageManifest]:
    """Return each tag -> its manifest, without tags deleted while we asked."""

    def ask(tag: str) -> ImageManifest | None:
        try:
            return registry.manifest(repository, tag)
        except NotFound:
            return None

    tags = registry.tags(repository)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = zip(tags, pool.map(ask, tags), strict=True)
        return {tag: manifest for tag, manifest in found if manifest is not None}
