"""Describes what was dumped: the manifest of a new backup, and the images that were running."""

from __future__ import annotations

import contextlib
import sys
from datetime import datetime
from pathlib import Path

from conche import commit
from conche.backup import manifest
from conche.backup.mac import Keys
from conche.backup.manifest import Artifact, ComponentRecord, Manifest
from conche.backup.site import Site
from conche.errors import ConcheError, Unreachable
from conche.files import write_atomic
from conche.stack import BackupKind
from conche.version import version

__all__ = ["described", "write_manifest"]


def described(
    site: Site, kind: BackupKind, name: str, begun: datetime, records: dict[str, ComponentRecord]
) -> Manifest:
    """Return the manifest of what was dumped."""
    import isal

    revision = ""
    with contextlib.suppress(Unreachable):  # only nice to know: git may be missing, or too slow on a busy machine
        revision = commit.described(site.root, "--abbrev=40", timeout=30)
    return Manifest(
        name=name,
        stack=site.stack.name,
        kind=kind,
        created=begun.replace(microsecond=0),
        seconds=0.0,
        complete=not any(record.harm for record in records.values()),
        revision=revision,
        images=_images(site),
        tools={"conche": version(), "isal": isal.__version__, "python": sys.version.split()[0]},
        components=records,
    )


def _images(site: Site) -> dict[str, str]:
    """Return the images that run in the components' environments, by service."""
    from conche.engine import containers
    from conche.engine.connection import Engine

    names = {c.environment for c in site.section.components.values() if c.environment}
    found: dict[str, str] = {}
    for name in sorted(names):
        with contextlib.suppress(ConcheError):
            engine = Engine(site.stack.environments[name].engine)
            for one in containers.of_project(engine, site.stack.project(name)):
                found[f"{name}/{one.service}"] = f"{one.image} {one.image_id}"
    return found


def write_manifest(folder: Path, made: Manifest, keys: Keys) -> None:
    """Write MANIFEST.txt and manifest.json, with a MAC if there is a key."""
    import hashlib

    text = manifest.text(made).encode()
    digest = hashlib.sha256(text).hexdigest()
    described = made.model_copy(update={"text": Artifact(path=manifest.TEXT, size=len(text), sha256=digest)})
    write_atomic(folder / manifest.TEXT, text, mode=0o600)
    write_atomic(folder / manifest.FILE, described.render(keys), mode=0o600)
