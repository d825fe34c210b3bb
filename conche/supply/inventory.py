"""Which images there are, in the registry and on the engines, and which of them run: read once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime

from conche.engine import containers, images, swarm
from conche.engine.connection import Engine
from conche.engine.images import Found
from conche.errors import ConcheError, NotFound
from conche.stack import Stack
from conche.supply.description import CREATED, describe, moment
from conche.supply.reference import parse
from conche.supply.registry import Manifest, Registry

__all__ = [
    "CREATED",
    "REVISION",
    "STACK",
    "Kept",
    "Observed",
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
"""Label with the stack's name: what images.prune may remove once it has lost its last tag."""

AT_ONCE = 8
"""Questions that a registry gets at a time."""


@dataclass(frozen=True)
class Kept:
    """One tag of a repository in the registry.

    Attributes:
        digest: of its manifest.
        size: bytes of its compressed layers, those of every platform.
        created: RFC 3339; empty where that is not known.
        parts: digests of what an index lists.
        problem: why something of it is not known.
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
        state: of the container: running, exited…
        health: of the container: healthy, unhealthy, starting, or none.
        tag: by which the container's image was named; empty where a digest was given.
        digest: the same the other way round.
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
class Observed:
    """What is where.

    Attributes:
        kept: the registry's tags; empty where it could not be asked.
        local: engine address -> its images of this stack's repositories.
        loose: engine address -> images of this stack that have lost their last tag.
        used: engine address -> image id -> a container that was made from it, whoever's that is.
        problems: what could not be asked, in words.
    """

    kept: tuple[Kept, ...]
    local: Mapping[str, tuple[Found, ...]]
    running: tuple[Running, ...]
    problems: tuple[ConcheError, ...] = ()
    loose: Mapping[str, tuple[Found, ...]] = field(default_factory=dict)
    used: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def observe(stack: Stack, registry: Registry | None) -> Observed:
    """Ask the registry, where there is one, the engines, and the environments."""
    problems: list[ConcheError] = []
    kept: list[Kept] = []
    repositories = sorted({image.repository for image in stack.images.values()})
    try:
        for repository in repositories if registry else ():
            assert registry is not None
            kept += _kept(registry, repository)
    except ConcheError as error:
        problems.append(error)
    local: dict[str, tuple[Found, ...]] = {}
    loose: dict[str, tuple[Found, ...]] = {}
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
    return Observed(tuple(kept), local, tuple(found), tuple(problems), loose, used)


def own_names(stack: Stack) -> dict[str, str]:
    """The images that stack.yaml describes, without their tags: as an engine calls them -> repository."""
    host = f"{stack.registry}/" if stack.registry else ""
    return {f"{host}{image.repository}": image.repository for image in stack.images.values()}


def own_here(stack: Stack, engine: Engine) -> tuple[Found, ...]:
    """This stack's own images on an engine: by the names in stack.yaml, and by the label that a build gives them."""
    named = [one for name in own_names(stack) for one in images.of_repository(engine, name)]
    ours = images.labelled(engine, f"{STACK}={stack.name}")
    return tuple({one.id: one for one in (*named, *ours)}.values())


def engines(stack: Stack) -> list[tuple[Engine, list[str]]]:
    """Each engine once, with the environments on it."""
    grouped: dict[str, tuple[Engine, list[str]]] = {}
    for name, environment in stack.environments.items():
        engine = Engine(environment.engine)
        grouped.setdefault(engine.address, (engine, []))[1].append(name)
    return list(grouped.values())


def running(stack: Stack, engine: Engine, environment: str) -> list[Running]:
    """The images of this stack that an environment's containers were made from, of any state; on a swarm its services.

    Raises:
        Unreachable: the environment is on a swarm, and the engine manages none.
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
    """What the services of a swarm are made from; one that has not all of its tasks has not shown that it works."""
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
    """Seconds since an RFC 3339 moment; None where it says nothing or the epoch, as reproducible builds do."""
    made = moment(created)
    return (now - made).total_seconds() if made else None


def digests(registry: Registry, repository: str) -> dict[str, str]:
    """What each tag of a repository means now, by the digest of its manifest."""
    return {tag: manifest.digest for tag, manifest in _manifests(registry, repository).items()}


def _kept(registry: Registry, repository: str) -> Iterable[Kept]:
    """Every tag; what its image says of itself is read once for each digest."""
    manifests = _manifests(registry, repository)
    distinct = {manifest.digest: manifest for manifest in manifests.values()}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        read = pool.map(lambda manifest: describe(registry, repository, manifest), distinct.values())
        said = dict(zip(distinct, read, strict=True))
    for tag, manifest in manifests.items():
        one = said[manifest.digest]
        revision = one.labels.get(REVISION, "")
        yield Kept(repository, tag, manifest.digest, one.size, one.created, revision, one.parts, one.problem)


def _manifests(registry: Registry, repository: str) -> dict[str, Manifest]:
    """What each tag means; without those that went while we asked."""

    def ask(tag: str) -> Manifest | None:
        try:
            return registry.manifest(repository, tag)
        except NotFound:
            return None

    tags = registry.tags(repository)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = zip(tags, pool.map(ask, tags), strict=True)
        return {tag: manifest for tag, manifest in found if manifest is not None}
