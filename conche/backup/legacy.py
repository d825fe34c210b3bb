"""Backups made by the old shell script: the same layout, but no list of hashes."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from conche.backup import within
from conche.backup.deep import everything
from conche.backup.drivers.local import archive_name
from conche.backup.manifest import FILE, Artifact, ComponentRecord, Link, Manifest
from conche.backup.site import Site
from conche.backup.strict import Limits, walk
from conche.backup.target import StoredBackup

__all__ = ["described"]


def described(site: Site, found: StoredBackup) -> Manifest:
    """Return a backup's manifest; for a backup of the old script, make one from its files as they are now.

    Raises:
        CheckFailed: it has a manifest, but a damaged one.
    """
    if os.path.lexists(found.folder / FILE):
        return found.read.required()
    components = {
        name: record
        for name in site.section.components
        if stat.S_ISDIR(_mode(found.folder / name)) and (record := _component(site, found, name))
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


def _component(site: Site, found: StoredBackup, name: str) -> ComponentRecord | None:
    component = site.section.components[name]
    if component.driver not in ("archive", "files", "logs"):
        return None
    artifacts, links = [], []
    for path in sorted(Path(entry.path) for entry in everything(found.folder / name)):
        relative = str(path.relative_to(found.folder))
        if path.is_symlink():
            links.append(Link(path=relative, target=str(path.readlink())))
        elif path.is_file():
            artifacts.append(_artifact(found.folder, relative, archive=component.driver == "archive"))
    folders = {archive_name(path.rstrip("/"), component.paths): path.rstrip("/") for path in component.paths}
    base = str(Path(component.paths[0]).parent if "*" in component.paths[0] else component.paths[0])
    single = len(component.paths) == 1 and component.driver != "archive"
    facts = folders if component.driver == "archive" else {"folder": base if single else ""}
    known = [one for one in artifacts if component.driver != "archive" or Path(one.path).name in folders]
    return ComponentRecord(driver=component.driver, artifacts=tuple(known), links=tuple(links), facts=facts)


def _mode(path: Path) -> int:
    """Return the mode of a path itself, not of what a link leads to; 0 if there is nothing."""
    with contextlib.suppress(FileNotFoundError):
        return path.lstat().st_mode
    return 0


def _artifact(folder: Path, relative: str, *, archive: bool) -> Artifact:
    with within.opened(folder, relative) as file:
        known: dict[str, object] = {"path": relative, "size": file.seen.st_size, "mode": file.seen.st_mode & 0o777}
        if archive:
            walked = walk(file, Limits())
            known |= {"members": walked.members, "content": walked.content, "pieces": "0"}
        known["sha256"] = file.digest()
    return Artifact.model_validate(known)
