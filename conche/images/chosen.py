"""Selects the own images that a command applies to."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from conche.command import Invocation
from conche.errors import NotFound, Refused, did_you_mean
from conche.session import open_compose
from conche.supply.own import Own, own_images

__all__ = ["chosen"]


def chosen(call: Invocation, environment: str, image: str | None) -> list[Own]:
    """Return the selected own images: one, or all of an environment.

    Raises:
        NotFound: there is none of that name; lists those that exist.
        Refused: nothing of the environment is built here.
    """
    found = _of_environment(call, environment)
    known = [one.name for one in found]
    if image is not None and image not in known:
        raise NotFound(
            "no-such-image",
            f"{environment} builds no image {image!r} here.{did_you_mean(image, known)}",
            looked_at=[f"images: {', '.join(known) or 'none'}"],
        )
    if not found:
        raise Refused(
            "no-images",
            f"{environment} builds no images here.",
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
    """Return whether Compose files may have a `build:`, directly or in files that they include or extend."""
    return any(re.search(r"\b(build|include|extends)\b", file.read_text(encoding="utf-8")) for file in files)
