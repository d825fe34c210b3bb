"""The images that releases were made of: a rollback needs them, so images.prune keeps them."""

from __future__ import annotations

import re

from conche.engine import images
from conche.engine.connection import Engine
from conche.engine.state import State
from conche.images.observe import engines
from conche.stack import Stack

__all__ = ["readers", "released"]

RECORD = re.compile(r"releases/(r\d+)/record\.json")
"""Where an environment's state has the record of a release."""

DIGEST = re.compile(rb"sha256:[0-9a-f]{64}")


def released(stack: Stack) -> dict[str, str]:
    """Digest or image id -> the release that it belongs to, such as `release r7 of prod`.

    Whatever a record names counts, also where the record is damaged: what is kept needlessly does no harm.
    """
    found: dict[str, str] = {}
    for engine, names in engines(stack):
        for name in names:
            files = State(engine, stack.project(name), readers(stack, engine)).read()
            for path, content in files.items():
                if record := RECORD.fullmatch(path):
                    for digest in DIGEST.findall(content):
                        found[digest.decode()] = f"release {record[1]} of {name}"
    return found


def readers(stack: Stack, engine: Engine) -> list[str]:
    """Images for containers that only read, the bases first: they are not deleted."""
    own = [f"{stack.registry}/{image.repository}" for image in stack.images.values()]
    return [*stack.bases, *(tag for name in own for image in images.of_repository(engine, name) for tag in image.tags)]
