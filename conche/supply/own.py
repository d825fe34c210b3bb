"""This stack's own images: those that stack.yaml describes, and those that `build:` in a Compose file does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from conche.engine import transfer
from conche.engine.compose import Compose, Configuration
from conche.engine.connection import Engine
from conche.engine.transfer import Credentials, Pushed
from conche.errors import Unreachable
from conche.output import Progress
from conche.stack import Stack
from conche.supply.reference import Reference, parse
from conche.supply.registry import Registry

__all__ = ["Own", "Tagged", "differs", "in_registry", "meanings", "own_images", "push"]


@dataclass(frozen=True)
class Own:
    """An image that this repository builds, in one environment.

    Attributes:
        name: in stack.yaml, or of the service whose `build:` describes it.
        compose: what builds it; None where stack.yaml says how.
        rendered: Compose's rendering of the files with that service.
    """

    name: str
    reference: str
    compose: Compose | None = field(default=None, repr=False)
    rendered: Mapping[str, Any] = field(default_factory=dict, repr=False)


def own_images(stack: Stack, environment: str, compose: Compose, configuration: Configuration) -> dict[str, Own]:
    """The own images of an environment by reference; what stack.yaml says of one goes before its `build:`."""
    rendered = configuration.rendered
    built: dict[str, Own] = {}
    for name, service in configuration.services.items():
        if ((rendered.get("services") or {}).get(name) or {}).get("build"):
            built.setdefault(service.image, Own(name, service.image, compose, rendered))
    described = {stack.reference(name, environment): name for name in stack.images}
    return {**built, **{reference: Own(name, reference) for reference, name in described.items()}}


def in_registry(stack: Stack, reference: str) -> bool:
    """Whether an image of that name is kept in the private registry; else it is where it was built."""
    return stack.registry is not None and parse(reference).registry == stack.registry


@dataclass(frozen=True)
class Tagged:
    """An own image as it is pushed for an environment.

    Attributes:
        name: in stack.yaml, or of the service that builds it.
        revision: the tag of the git revision it was built from; empty where that is not known.
    """

    name: str
    reference: Reference
    revision: str

    @property
    def tags(self) -> tuple[str, ...]:
        """The revision's tag first: the environment's means something new only when that is through."""
        return tuple(dict.fromkeys(tag for tag in (self.revision, self.reference.tag) if tag))

    def as_json(self, pushed: Pushed) -> Mapping[str, object]:
        """What `--json` says of it once it is pushed."""
        return {
            "image": str(self.reference.pinned(pushed.digest)),
            "reference": str(self.reference),
            "tags": list(self.tags),
            "digest": pushed.digest,
            "layers_moved": pushed.moved,
            "layers_there": pushed.known,
        }


def meanings(registry: Registry, given: Tagged) -> list[str | None]:
    """The digest that each of its tags means in the registry now."""
    return [registry.digest(given.reference.repository, tag) for tag in given.tags]


def push(engine: Engine, registry: Registry, given: Tagged, known: Credentials | None, progress: Progress) -> Pushed:
    """Push every tag; then see that the registry, as we see it, has what the engine has pushed."""
    results = []
    for tag in given.tags:
        progress.step(f"pushing {given.reference.tagged(tag)}")
        results.append(transfer.push(engine, given.reference.name, tag, known, progress.amount))
    if registry.digest(given.reference.repository, results[-1].digest) is None:
        raise differs(engine, registry, f"does not have {given.reference.pinned(results[-1].digest)}, which was pushed")
    progress.step(f"pushed {given.reference.pinned(results[-1].digest)}: {results[0].moved} layers moved")
    return Pushed(results[-1].digest, results[0].moved, results[0].known)


def differs(engine: Engine, registry: Registry, how: str) -> Unreachable:
    """The error for a registry that is not the same one for us and for the engine."""
    return Unreachable(
        "registry-differs",
        f"{registry.host}, as this machine reaches it, {how}: the engine reaches another registry by that name.",
        looked_at=[engine.address],
        next_command="give `registry` in stack.yaml a name that means the same everywhere",
    )
