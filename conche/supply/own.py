"""This stack's own images: those described by stack.yaml, and those described by `build:` in a Compose file."""

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
        name: its name in stack.yaml, or the service whose `build:` describes it.
        compose: the Compose that builds it; None if stack.yaml describes it.
        rendered: Compose's rendering of the files with that service.
    """

    name: str
    reference: str
    compose: Compose | None = field(default=None, repr=False)
    rendered: Mapping[str, Any] = field(default_factory=dict, repr=False)


def own_images(stack: Stack, environment: str, compose: Compose, configuration: Configuration) -> dict[str, Own]:
    """Return an environment's own images by reference; stack.yaml takes precedence over `build:`."""
    rendered = configuration.rendered
    built: dict[str, Own] = {}
    for name, service in configuration.services.items():
        if ((rendered.get("services") or {}).get(name) or {}).get("build"):
            built.setdefault(service.image, Own(name, service.image, compose, rendered))
    described = {stack.reference(name, environment): name for name in stack.images}
    return {**built, **{reference: Own(name, reference) for reference, name in described.items()}}


def in_registry(stack: Stack, reference: str) -> bool:
    """Return whether an image of that name belongs in the private registry; otherwise it stays where it was built."""
    return stack.registry is not None and parse(reference).registry == stack.registry


@dataclass(frozen=True)
class Tagged:
    """An own image as it is pushed for an environment.

    Attributes:
        name: its name in stack.yaml, or the service that builds it.
        revision: the tag of the git revision it was built from; empty if unknown.
    """

    name: str
    reference: Reference
    revision: str

    @property
    def tags(self) -> tuple[str, ...]:
        """Its tags, the revision's first: the environment's tag moves only after that one is pushed."""
        return tuple(dict.fromkeys(tag for tag in (self.revision, self.reference.tag) if tag))

    def as_json(self, pushed: Pushed) -> Mapping[str, object]:
        """Return what `--json` shows of it once it is pushed."""
        return {
            "image": str(self.reference.pinned(pushed.digest)),
            "reference": str(self.reference),
            "tags": list(self.tags),
            "digest": pushed.digest,
            "layers_moved": pushed.moved,
            "layers_there": pushed.known,
        }


def meanings(registry: Registry, given: Tagged) -> list[str | None]:
    """Return the digest that each of its tags means in the registry now."""
    return [registry.digest(given.reference.repository, tag) for tag in given.tags]


def push(engine: Engine, registry: Registry, given: Tagged, known: Credentials | None, progress: Progress) -> Pushed:
    """Push every tag, then verify that the registry, as we reach it, has what the engine pushed."""
    results = []
    for tag in given.tags:
        progress.step(f"pushing {given.reference.tagged(tag)}")
        results.append(transfer.push(engine, given.reference.name, tag, known, progress.amount))
    if registry.digest(given.reference.repository, results[-1].digest) is None:
        raise differs(engine, registry, f"does not have {given.reference.pinned(results[-1].digest)}, which was pushed")
    progress.step(f"pushed {given.reference.pinned(results[-1].digest)}: {results[0].moved} layers moved")
    return Pushed(results[-1].digest, results[0].moved, results[0].known)


def differs(engine: Engine, registry: Registry, how: str) -> Unreachable:
    """Return the error for a name that means different registries to us and to the engine."""
    return Unreachable(
        "registry-differs",
        f"{registry.host}, as this machine reaches it, {how}: for the engine, that name is another registry.",
        looked_at=[engine.address],
        next_command="give `registry` in stack.yaml a name that is the same everywhere",
    )
