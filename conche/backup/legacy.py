"""Backups made by the old shell script: the same layout, but no list of hashes."""

from __future__ import annotations

import hashlib
from pathlib import Path

from conche.backup.drivers.local import archive_name
from conche.backup.extract import Limits, walk
from conche.backup.manifest import FILE, Artifact, ComponentRecord, Link, Manifest, read
from conche.backup.site import Site
from conche.backup.target import Found

__all__ = ["described"]


def described(site: Site, found: Found) -> Manifest:
    """Return a backup's manifest; for a backup of the old script, make one from its files as they are now.

    Raises:
        CheckFailed: it has a manifest, but a damaged one.
    """
    if (found.folder / FILE).exists():
        return read(found.folder)
    components = {
        name: record
        for name in site.section.components
        if (found.folder / name).is_dir() and (record := _component(site, found, name))
    }
    return Manifest(
        name=found.name,
        stack=site.stack.name,
        kind=found.kind,
        created=found.named,
        seconds=0,
        complete=False,
        components=components,
    )


def _component(site: Site, found: Found, name: str) -> ComponentRecord | None:
    component = site.section.components[name]
    if component.driver not in ("archive", "files", "logs"):
        return None
    artifacts, links = [], []
    for path in sorted((found.folder / name).rglob("*")):
        relative = str(path.relative_to(found.folder))
        if path.is_symlink():
            links.append(Link(path=relative, target=str(path.readlink())))
        elif path.is_file():
            artifacts.append(_artifact(path, relative, archive=component.driver == "archive"))
    folders = {archive_name(path.rstrip("/"), component.paths): path.rstrip("/") for path in component.paths}
    base = str(Path(component.paths[0]).parent if "*" in component.paths[0] else component.paths[0])
    single = len(component.paths) == 1 and component.driver != "archive"
    facts = folders if component.driver == "archive" else {"folder": base if single else ""}
    known = [one for one in artifacts if component.driver != "archive" or Path(one.path).name in folders]
    return ComponentRecord(driver=component.driver, artifacts=tuple(known), links=tuple(links), facts=facts)


def _artifact(path: Path, relative: str, *, archive: bool) -> Artifact:
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    seen = path.stat()
    known = {"path": relative, "size": seen.st_size, "sha256": digest, "mode": seen.st_mode & 0o777}
    if not archive:
        return Artifact.model_validate(known)
    walked = walk(path, Limits())
    return Artifact.model_validate({**known, "members": walked.members, "content": walked.content, "pieces": "0"})
