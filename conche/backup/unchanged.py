"""What an earlier backup has of a component, and what was seen of its sources then: that need not be read again.

It is remembered in the user's own state, not in the target, and with a MAC where the stack has a key for one. It counts
only together with that backup itself: proven to be ours, verified, without harm to the component, and with the very
manifest that was remembered. A file of it is taken over as a hard link if it is still what was seen when the backup was
made; if anything has touched it since, or a week has gone by, it is read and compared with the manifest first.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from conche.backup import within
from conche.backup.archive import Group
from conche.backup.history import History
from conche.backup.linking import NO_LINKS, is_ours_alone
from conche.backup.mac import UNCHANGED as PURPOSE
from conche.backup.mac import Provenance
from conche.backup.manifest import Artifact, ComponentRecord, Manifest
from conche.backup.pieces import Pieces
from conche.backup.sight import told_of
from conche.backup.site import Site
from conche.backup.target import StoredBackup, digest_of
from conche.backup.within import File
from conche.files import state_folder, write_atomic
from conche.formats import UNCHANGED, WrittenByNewer
from conche.stack import Component
from conche.version import version

__all__ = ["Earlier", "Memory", "Seen"]

LARGEST = 64 << 20
"""Maximum bytes of a memory that are written or read."""

PROVEN_FOR = timedelta(days=7)
"""How long a file counts as verified: bits rot without anybody writing to them."""


@dataclass(frozen=True)
class Seen:
    """What was seen of an archive's sources.

    Attributes:
        whole: a digest of it (sight.py).
        said: what was left out for what was found in files.
        groups: the same of each of its parts.
    """

    whole: str
    said: tuple[tuple[str, str], ...] = ()
    groups: tuple[Group, ...] = ()

    @classmethod
    def parsed(cls, whole: str, said: Iterable[Sequence[str]], groups: Iterable[Sequence[Any]]) -> Seen:
        """Return what `plain` has returned."""
        parts = (Group(tuple(map(bytes.fromhex, seen.split(","))), *map(int, rest)) for seen, *rest in groups)
        return cls(str(whole), tuple((str(name), str(why)) for name, why in said), tuple(parts))

    def plain(self) -> tuple[object, ...]:
        """Return it as it is kept in JSON."""
        groups = [
            (",".join(map(bytes.hex, one.seen)), one.pieces, one.members, one.content, one.length)
            for one in self.groups
        ]
        return self.whole, self.said, groups


@dataclass
class Earlier:
    """A component in an earlier backup.

    Attributes:
        folder: that backup's.
        archives: what was seen of the sources of each archive, by its name.
        files: what was seen of each file that is in it as it is.
        places: what was seen of each artifact in the target.
        verified: when they were last found to be as the manifest says.
        taken: artifacts that were taken over, by their paths.
        inodes: the sha256 of these, by device and inode.
        unread: whether some were taken over without being read.
    """

    folder: Path
    record: ComponentRecord
    archives: Mapping[str, Seen]
    files: Mapping[str, bytes]
    places: Mapping[str, str]
    verified: datetime
    taken: dict[str, Artifact] = field(default_factory=dict)
    inodes: dict[tuple[int, int], str] = field(default_factory=dict)
    unread: bool = False

    @cached_property
    def _artifacts(self) -> Mapping[str, Artifact]:
        return {one.path: one for one in self.record.artifacts}

    @contextlib.contextmanager
    def pieces(self, path: str) -> Iterator[Pieces | None]:
        """Open an archive, so that parts of it can be taken over; provides None if that cannot be done."""
        artifact, seen = self._artifacts.get(path), self.archives.get(path.partition("/")[2])
        file = self._opened(path, self.folder.stat()) if artifact and seen else None
        if file is None:
            yield None
            return
        assert artifact is not None
        assert seen is not None
        with file, ThreadPoolExecutor(1) as hashing:
            file.hash_by(hashing)
            yield Pieces(file, artifact, seen.groups)

    def take(self, path: str, place: Path) -> Artifact | None:
        """Give an artifact a name in a new backup, too; None if that cannot be done."""
        artifact = self._artifacts.get(path)
        if artifact is None:
            return None
        file = self._opened(path, place.parent.stat())
        if file is None:
            return None
        with file:
            if not self._is_good(artifact, file):
                return None
            try:
                os.link(file.path, place)
            except OSError as error:
                if error.errno in (*NO_LINKS, errno.EMLINK):
                    return None
                raise
            # Something else may stand there since it was opened.
            if not os.path.samestat(file.seen, place.lstat()):
                place.unlink()
                return None
            self.taken[path] = artifact
            self.inodes[file.seen.st_dev, file.seen.st_ino] = artifact.sha256
        return artifact

    def _opened(self, path: str, own: os.stat_result) -> File | None:
        """Open a file of the earlier backup; None if it is missing, or is not ours alone."""
        with contextlib.suppress(OSError):
            file = within.opened(self.folder, path)
            if is_ours_alone(file.seen, own):
                return file
            file.close()
        return None

    def _is_good(self, artifact: Artifact, file: File) -> bool:
        """Return whether a file of the earlier backup is what was verified; read it if that is not sure."""
        age = datetime.now(UTC) - self.verified
        if self.places.get(artifact.path) == _told(artifact, file.seen) and timedelta() <= age < PROVEN_FOR:
            self.unread = True
            return file.seen.st_size == artifact.size
        return file.is_as(artifact.size, artifact.sha256)


@dataclass(frozen=True)
class Memory:
    """What is remembered of a target's backups and their sources.

    Attributes:
        file: where.
    """

    site: Site
    file: Path

    @classmethod
    def of(cls, site: Site) -> Memory:
        """Return the memory of a site's target: disks that take turns there have one each."""
        place = f"{site.target.folder}\0{site.target.mark.number or ''}".encode(errors="surrogateescape")
        name = f"unchanged-{hashlib.sha256(place).hexdigest()[:16]}.json"
        return cls(site, state_folder() / site.stack.name / name)

    def earlier(self, backups: Iterable[StoredBackup], told: History) -> dict[str, Earlier]:
        """Return what is known of each component that need not be read again as a whole."""
        there, found = {one.name: one for one in backups}, {}
        for name, said in self._read().items():
            with contextlib.suppress(KeyError, TypeError, ValueError, AttributeError, OSError):
                one = there[said["backup"]]
                verified = self.site.target.record(one).verified
                known = one.manifest and name in told.sound[one.name] and one.trusted
                how = _how(self.site, self.site.section.components[name])
                if verified and known and said["how"] == how and said["manifest"] == digest_of(one):
                    found[name] = _parsed(one, name, said, verified)
        return found

    def keep(
        self, made: StoredBackup, said: Manifest, sights: Mapping[str, tuple[Mapping[str, Seen], Mapping[str, bytes]]]
    ) -> None:
        """Remember a backup, and of the components that it lacks what was remembered before.

        Args:
            said: its manifest.
            sights: what was seen of each component's archives and plain files.
        """
        components = {n: one for n, one in self._read().items() if n in self.site.section.components}
        for name, (archives, files) in sights.items():
            record = said.components[name]
            if record.absent or record.harm:
                continue
            components[name] = {
                "backup": made.name,
                "manifest": digest_of(made),
                "how": _how(self.site, self.site.section.components[name]),
                "archives": {file: one.plain() for file, one in archives.items()},
                "files": {file: one.hex() for file, one in files.items()},
                "places": {one.path: _told(one, (made.folder / one.path).lstat()) for one in record.artifacts},
            }
        tag = self.site.target.keys().tag(PURPOSE, _plain(components)).decode()
        written = json.dumps(UNCHANGED.stamped({"components": components, "mac": tag})).encode()
        self.file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        for half in self.file.parent.glob(f".{self.file.name}.????????"):
            half.unlink(missing_ok=True)
        if len(written) <= LARGEST:
            write_atomic(self.file, written, mode=0o600)

    def _read(self) -> dict[str, Any]:
        """Return what is remembered; nothing if it is not ours, or of another version."""
        try:
            with within.opened(self.file.parent.resolve(), self.file.name) as file:
                if file.seen.st_uid != os.geteuid() or file.seen.st_mode & 0o022:
                    return {}
                content = json.loads(b"".join(file.blocks(LARGEST)))
            found = UNCHANGED.opened(content)
            components = found["components"]
            keys, tag = self.site.target.keys(), str(found["mac"]).encode()
            if keys.exist and keys.judge(PURPOSE, _plain(components), tag) is not Provenance.OURS:
                return {}
        except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError, WrittenByNewer):
            return {}
        return components if isinstance(components, dict) else {}


def _parsed(one: StoredBackup, name: str, said: Mapping[str, Any], verified: datetime) -> Earlier:
    return Earlier(
        folder=one.folder,
        record=one.read.required().components[name],
        archives={file: Seen.parsed(*one) for file, one in said["archives"].items()},
        files={file: bytes.fromhex(seen) for file, seen in said["files"].items()},
        places=said["places"],
        verified=verified,
    )


def _how(site: Site, component: Component) -> str:
    """Return a digest of all that decides what is stored of a component's sources, and how."""
    said = json.dumps([_code(), component.model_dump(mode="json"), site.never()], sort_keys=True)
    return hashlib.sha256(said.encode(errors="surrogateescape")).hexdigest()


@cache
def _code() -> str:
    """Return a digest of the code that reads and stores: what is stored by other code may be something else."""
    folder, digest = Path(__file__).parent, hashlib.sha256()
    for file in sorted((*folder.glob("*.py"), *folder.glob("drivers/*.py"))):
        digest.update(file.read_bytes())
    return f"{digest.hexdigest()} {version() if digest.digest() == hashlib.sha256().digest() else ''}"


def _told(artifact: Artifact, seen: os.stat_result) -> str:
    return told_of(artifact.path, seen).hex()


def _plain(components: Mapping[str, Any]) -> bytes:
    return json.dumps(components, sort_keys=True).encode()
