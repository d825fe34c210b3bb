"""This stack's own images: those that stack.yaml describes, and those that `build:` in a Compose file does."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conche.command import Invocation
from conche.engine.compose import Compose, Configuration
from conche.errors import NotFound, Refused, did_you_mean
from conche.images.reference import parse
from conche.session import open_compose
from conche.stack import Stack

__all__ = ["Own", "chosen", "in_registry", "own_images"]


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


def chosen(call: Invocation, environment: str, image: str | None) -> list[Own]:
    """The own images that are meant: one, or all of an environment.

    Raises:
        NotFound: there is none of that name, with the ones there are.
    """
    found = _of_environment(call, environment)
    known = [one.name for one in found]
    if image is not None and image not in known:
        raise NotFound(
            "no-such-image",
            f"{environment} has no image {image!r} that is built here.{did_you_mean(image, known)}",
            looked_at=[f"images: {', '.join(known) or 'none'}"],
        )
    if not found:
        raise Refused(
            "no-images",
            f"Nothing of {environment} is built here.",
            next_command="add `build:` to a service of its Compose files, or `images` to stack.yaml",
        )
    return [one for one in found if image in (None, one.name)]


def _of_environment(call: Invocation, environment: str) -> list[Own]:
    section = call.environment(environment)
    described = [Own(name, call.stack.reference(name, environment)) for name in call.stack.images]
    if not _may_build(call.root / file for file in section.compose):
        return described
    compose = open_compose(call, environment)
    own = own_images(call.stack, environment, compose, compose.configuration(hashed=False))
    return [*described, *(one for one in own.values() if one.compose is not None)]


def _may_build(files: Iterable[Path]) -> bool:
    """Whether Compose files may have a `build:`, themselves or in what they take from others."""
    return any(re.search(r"\b(build|include|extends)\b", file.read_text(encoding="utf-8")) for file in files)
