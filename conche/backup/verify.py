"""backup.verify: checks that a backup is what its manifest says, file by file and bit by bit."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from conche.backup import manifest, within
from conche.backup.archived import is_archive, limits_of
from conche.backup.deep import everything
from conche.backup.inflate import unpacked
from conche.backup.locks import locked
from conche.backup.mac import Provenance
from conche.backup.manifest import Artifact, Manifest
from conche.backup.site import Site, open_site
from conche.backup.strict import Limits, walk
from conche.backup.summary import doubts
from conche.backup.target import StoredBackup
from conche.command import Invocation
from conche.errors import CheckFailed, NotFound
from conche.outcome import Outcome, Table

__all__ = ["Damage", "Inodes", "check", "verify"]

ARCHIVE = re.compile(r"\.(tar(\.\w+)?|tgz|tzst|txz|tbz2)$")
Inodes = dict[tuple[int, int], str]
"""sha256 by device and inode: a file that several backups share is read only once."""


@dataclass(frozen=True)
class Damage:
    """Something that is not as it was written."""

    path: str
    what: str

    def __str__(self) -> str:
        return f"{self.path} {self.what}"


def check(
    folder: Path, known: Manifest, *, deep: bool = False, only: str = "", read: Inodes | None = None
) -> list[Damage]:
    """Return what is wrong with a backup's files; nothing if every bit is as it was written.

    Args:
        deep: also decompress every archive and read through its entries.
        only: check only this component.
        read: known hashes of files that other backups share with this one; new ones are added.
    """
    inodes: Inodes = {} if read is None else read
    artifacts = [one for one in known.artifacts() if not only or one.path.startswith(f"{only}/")]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda one: _artifact(folder, one, inodes), artifacts))
    damage = [one for one in found if one]
    damage += _links(folder, known, only) + ([] if only else _strangers(folder, known))
    if deep and not damage:
        damage += [one for artifact in artifacts if (one := _inside(folder, artifact, known))]
    return damage


def _artifact(folder: Path, artifact: Artifact, inodes: Inodes) -> Damage | None:
    try:
        with within.opened(folder, artifact.path) as file:
            if file.seen.st_size != artifact.size:
                return Damage(artifact.path, f"has {file.seen.st_size} bytes, not {artifact.size}")
            key = (file.seen.st_dev, file.seen.st_ino)
            if key not in inodes:
                inodes[key] = file.digest()
    except FileNotFoundError:
        return Damage(artifact.path, "is missing")
    except OSError as error:
        return Damage(artifact.path, f"cannot be read: {error.strerror}")
    return None if inodes[key] == artifact.sha256 else Damage(artifact.path, "differs from what was written")


def _links(folder: Path, known: Manifest, only: str) -> list[Damage]:
    damage = []
    for name, record in known.components.items():
        for link in record.links if only in ("", name) else ():
            try:
                target = within.target_of(folder, link.path)
            except OSError:
                target = ""
            if target != link.target:
                damage.append(Damage(link.path, f"is no longer the link to {link.target}"))
    return damage


def _strangers(folder: Path, known: Manifest) -> list[Damage]:
    """Return files and folders that are not in the manifest."""
    listed = {one.path for one in known.artifacts()} | {manifest.FILE}
    listed |= {link.path for record in known.components.values() for link in record.links}
    above = {str(parent) for path in listed for parent in Path(path).parents}
    found, left = [], [""]
    while left:
        inside = left.pop()
        with suppress(OSError), os.scandir(folder / inside) as entries:
            for entry in entries:
                name = f"{inside}{entry.name}"
                folders = entry.is_dir(follow_symlinks=False)
                if name not in (above if folders else listed):
                    found.append(name)
                elif folders:
                    left.append(f"{name}/")
    return [Damage(path, "does not belong to the backup") for path in sorted(found)]


def _inside(folder: Path, artifact: Artifact, known: Manifest) -> Damage | None:
    component = known.components.get(Path(artifact.path).parts[0])
    if component is None or not (artifact.members or artifact.pieces):
        return None
    try:
        with within.opened(folder, artifact.path) as file:
            if is_archive(component, artifact):
                walk(file, limits_of(component, artifact))
            else:
                for _ in unpacked(file, artifact.content):
                    pass
    except OSError as error:
        return Damage(artifact.path, f"cannot be read: {error.strerror}")
    except CheckFailed as error:
        return Damage(artifact.path, error.message)
    return None


def verify(call: Invocation, name: str | None, *, every: bool, deep: bool) -> Outcome:
    """Verify one backup, or all if `every` is set or no name is given."""
    site = open_site(call)
    with locked(call, site, "invoke backup.verify"):
        chosen = [site.target.find(name)] if name and not every else site.target.backups()
        if not chosen:
            raise NotFound(
                "no-backups",
                f"There is no backup in {site.target.folder}.",
                next_command="invoke backup.create daily",
            )
        inodes: Inodes = {}
        results = {one: _verified(site, one, deep=deep, inodes=inodes) for one in chosen}
    return _outcome(results)


@dataclass(frozen=True)
class _Result:
    hashed: bool
    damage: tuple[Damage, ...]
    doubt: str = ""

    @property
    def word(self) -> str:
        word = "DAMAGED" if self.damage else "ok" if self.hashed else "readable, not hashed"
        return f"{word}, {self.doubt}" if self.doubt else word

    @property
    def bad(self) -> bool:
        """Whether somebody has to look at it; what is unproven may be all there ever was."""
        return bool(self.damage) or self.doubt == Provenance.FOREIGN


def _verified(site: Site, one: StoredBackup, *, deep: bool, inodes: Inodes) -> _Result:
    site.say(f"verifying {one.name}")
    doubt = "" if one.trusted else str(one.provenance)
    if one.manifest is None and not os.path.lexists(one.folder / manifest.FILE):
        return _Result(hashed=False, damage=tuple(_unhashed(one)), doubt=doubt)
    if one.manifest is None:
        return _Result(hashed=True, damage=(Damage(manifest.FILE, _why_unread(one)),), doubt=doubt)
    damage = check(one.folder, one.manifest, deep=deep, read=inodes)
    record = site.target.record(one)
    site.target.note(one, replace(record, verified=None if damage else datetime.now(UTC)))
    return _Result(hashed=True, damage=tuple(damage), doubt=doubt)


def _why_unread(one: StoredBackup) -> str:
    error = one.read.error
    assert error is not None
    return "differs from what was written" if error.code == "manifest-damaged" else f"cannot be read: {error.message}"


def _unhashed(one: StoredBackup) -> Iterable[Damage]:
    """Check a backup of the old script: there are no hashes to compare with, only archives to read through."""
    archives = sorted(Path(entry.path) for entry in everything(one.folder) if ARCHIVE.search(entry.name))
    if not archives and not (one.folder / manifest.TEXT).exists():
        yield Damage(".", "has no manifest and no archive")
    for path in archives:
        try:
            with within.opened(one.folder, str(path.relative_to(one.folder))) as file:
                walk(file, Limits())
        except CheckFailed as error:
            yield Damage(str(path.relative_to(one.folder)), error.message)
        except OSError as error:
            yield Damage(str(path.relative_to(one.folder)), f"cannot be read: {error.strerror}")


def _outcome(results: Mapping[StoredBackup, _Result]) -> Outcome:
    rows, lines, bad = [], [], 0
    for one, result in results.items():
        rows.append((one.name, result.word, "; ".join(map(str, result.damage[:3]))))
        bad += result.bad
        for damage in result.damage:
            sharing = _sharing(one, damage, results)
            lines.append(f"{one.name}: {damage}" + (f" (shared with {', '.join(sharing)})" if sharing else ""))
    lines += doubts(list(results))
    if bad:
        good = [one.name for one, result in results.items() if result.word == "ok"]
        lines.append(f"Restore another one: {good[0]}" if good else "Next: invoke backup.create daily")
    value = [
        {"name": one.name, "state": result.word, "damage": [str(damage) for damage in result.damage]}
        for one, result in results.items()
    ]
    return Outcome(
        value=value,
        tables=[Table(("backup", "state", "damage"), tuple(rows))],
        lines=lines,
        exit_code=1 if bad else 0,
    )


def _sharing(one: StoredBackup, damage: Damage, results: Mapping[StoredBackup, _Result]) -> list[str]:
    """Return the other backups that share a damaged file as a hard link."""
    try:
        inode = (one.folder / damage.path).lstat().st_ino
    except OSError:
        return []
    return [
        other.name
        for other, result in results.items()
        if other is not one
        for elsewhere in result.damage
        if (other.folder / elsewhere.path).exists() and (other.folder / elsewhere.path).lstat().st_ino == inode
    ]
