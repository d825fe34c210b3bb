"""Tells by a label whether an image was built from what its sources are now.

Compose builds an image that is missing, and takes one that is there for good, however old.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from conche.engine.dockerfile import text_of
from conche.engine.rendered import plain

__all__ = ["LABEL", "fingerprint"]

LABEL = "io.conche.sources"
"""Label of an image that says what it was built from, by `fingerprint`."""

PLACES = ("context", "dockerfile")
"""Keys of `build:` that are paths on this machine; what is there counts instead."""


def fingerprint(said: Mapping[str, Any], *, without: Path | None = None) -> str:
    """Return a digest of everything that an image is built from, its base images and downloads aside.

    Of a file's mode only whether its owner may execute it counts: the rest comes from the mask of a checkout.

    Args:
        said: a service's `build:`, as Compose renders it.
        without: a folder whose files do not count.
    """
    known = {key: value for key, value in said.items() if key not in PLACES and value is not None}
    digest = hashlib.sha256(json.dumps([known, text_of(said)], sort_keys=True).encode())
    context = Path(plain(said.get("context") or ""))
    for path in sorted(_sent(said, context)) if context.is_dir() else ():
        if without is not None and (context / path).is_relative_to(without):
            continue
        digest.update(json.dumps([path, *_described(context / path)]).encode())
    return digest.hexdigest()


def _sent(said: Mapping[str, Any], context: Path) -> Iterator[str]:
    """Yield the paths in a context that a build gets.

    Source: https://docs.docker.com/build/concepts/context/#dockerignore-files
    """
    from docker.utils import exclude_paths

    dockerfile = context / plain(said.get("dockerfile") or "Dockerfile")
    candidates = (dockerfile.with_name(f"{dockerfile.name}.dockerignore"), context / ".dockerignore")
    ignoring = next((file for file in candidates if file.is_file()), None)
    lines = ignoring.read_text(encoding="utf-8").splitlines() if ignoring else []
    patterns = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    try:
        yield from exclude_paths(str(context), patterns)
    except OSError:
        return  # a folder that cannot be read, which the build reports better


def _described(path: Path) -> tuple[str, str]:
    if path.is_symlink():
        return "link", str(path.readlink())
    if not path.is_file():
        return "folder", ""
    try:
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return "unreadable", ""
    return "program" if path.stat().st_mode & 0o100 else "file", content
