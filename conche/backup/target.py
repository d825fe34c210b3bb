"""The folder of the backups: daily/, weekly/, monthly/, and .store/ for everything else.

A backup appears by one rename, once it is complete, and goes by one rename, before anything in it is deleted.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Literal

from conche.backup import manifest, ownership, within
from conche.backup.deep import everything, remove_tree
from conche.backup.mac import KEYLESS, KeysOf, Provenance
from conche.backup.manifest import Manifest, Read, UnknownFormat
from conche.backup.mark import Mark
from conche.errors import NotFound, Refused, did_you_mean
from conche.files import lock, sync_file, sync_folder, write_atomic
from conche.formats import CHECKED
from conche.stack import KINDS, BackupKind

__all__ = ["CheckRecord", "StoredBackup", "Target", "digest_of", "future_said", "is_future", "name_of", "none_proven"]

_NAME = re.compile(r"(?P<stack>.+)_(?P<kind>daily|weekly|monthly)_(?P<time>\d{8}_\d{6})(-\d+)?")
BUILDING, TRASH = "building-", "trash-"

RESERVE = 8 << 20
"""Bytes that must stay free beside a backup."""

AHEAD = timedelta(minutes=5)
"""How far clocks may differ: a backup that is further ahead is from the future."""

LARGEST = 4096
"""Maximum bytes of a record that are read."""


@dataclass(frozen=True)
class CheckRecord:
    """What is known about a backup but not stored in it.

    Attributes:
        verified: when its files were last found to be as the manifest says; None for never, or if they are not.
        drilled: when a trial restore of it last worked.
    """

    verified: datetime | None = None
    drilled: datetime | None = None


@dataclass(frozen=True)
class StoredBackup:
    """A backup in the target.

    Attributes:
        named: the time in its name, UTC.
        keys: the stack's keys, to tell whether it is the stack's own.
        most: maximum bytes of its manifest if they do not prove it.
    """

    folder: Path
    kind: BackupKind
    named: datetime
    keys: KeysOf = field(default=lambda: KEYLESS, compare=False, repr=False)
    most: int = field(default=manifest.LARGEST_UNPROVEN, compare=False, repr=False)

    @property
    def name(self) -> str:
        return self.folder.name

    @cached_property
    def read(self) -> Read:
        """What reading its manifest has shown; it is read once, so that what was judged is what is used."""
        keys = self.keys()
        return manifest.examined(self.folder, keys, self.most if keys.exist else manifest.LARGEST)

    def asked_for(self) -> StoredBackup:
        """Return the same for a command that was given its name: then its manifest may be large."""
        return replace(self, most=manifest.LARGEST)

    @property
    def manifest(self) -> Manifest | None:
        """Its manifest; None if that is missing, damaged, or in a format that this version does not know."""
        return self.read.manifest

    @property
    def provenance(self) -> Provenance:
        """Whether it is known to be the stack's own, in this place and under this name."""
        known = self.manifest
        moved = known is not None and (known.name, known.kind) != (self.name, self.kind)
        return Provenance.FOREIGN if moved and self.read.provenance is Provenance.OURS else self.read.provenance

    @property
    def trusted(self) -> bool:
        """Whether its name, time and content count: it is ours, or the stack has no key that could prove it."""
        return self.provenance is Provenance.OURS or not self.keys().exist

    @property
    def made_by(self) -> str:
        """Who made it, if its manifest is undamaged but in a format that this version does not know; else empty."""
        error = self.read.error
        return error.by if isinstance(error, UnknownFormat) else ""

    @property
    def created(self) -> datetime:
        """The manifest's time, in UTC: names use the local clock, which goes back one night a year."""
        return self.manifest.created if self.manifest else self.named

    @property
    def size(self) -> int:
        """Total size of its files in bytes."""
        every = (one for one in everything(self.folder) if not one.is_dir(follow_symlinks=False))
        return sum(one.stat(follow_symlinks=False).st_size for one in every)


@dataclass(frozen=True)
class Target:
    """Where the backups of a stack are.

    Attributes:
        use: `known` requires the mark if there was one; `anew` makes a new one; `any` works without it, for a restore
            from elsewhere after the disk has died.
        keys: the stack's keys for its backups.
    """

    folder: Path
    stack: str
    use: Literal["known", "anew", "any"] = "known"
    keys: KeysOf = field(default=lambda: KEYLESS, compare=False, repr=False)

    @property
    def store(self) -> Path:
        return self.folder / ".store"

    @property
    def mark(self) -> Mark:
        return Mark(self.folder, self.stack)

    def backups(self) -> list[StoredBackup]:
        """Return every backup of this stack, the newest first; foreign names and links are ignored.

        Raises:
            Unreachable: the target's disk is not mounted.
        """
        self.require()
        found = []
        for kind in KINDS:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                entries = [entry for entry in os.scandir(self.folder / kind) if entry.is_dir(follow_symlinks=False)]
                found += [one for entry in entries if (one := self._parsed(Path(entry.path), kind))]
        return sorted(found, key=lambda one: (one.created, one.name), reverse=True)

    def find(self, name: str) -> StoredBackup:
        """Return the backup of that name; `latest` is the newest that is known to be ours and not from the future.

        Raises:
            NotFound: there is none; suggests the nearest name.
        """
        backups = self.backups()
        if name == "latest" and (trusted := [one for one in backups if one.trusted]):
            now = datetime.now(UTC)
            return next((one for one in trusted if not is_future(one.created, now)), trusted[0])
        if name == "latest" and backups:
            raise none_proven(self.folder, len(backups), self.keys().unknown)
        for one in backups:
            if one.name == name:
                return one
        raise NotFound(
            "no-such-backup",
            f"There is no backup {name!r}.{did_you_mean(name, [one.name for one in backups])}",
            looked_at=[str(self.folder)],
            next_command="invoke backup.list",
        )

    @contextlib.contextmanager
    def locked(self, purpose: str, *, wait: float = 0.0, say: Callable[[str], None] = lambda _: None) -> Iterator[int]:
        """Lock the target, and remove what a kill has left in it.

        Raises:
            Locked: another command is at work here.
            Refused: nothing can be written here.
            Unreachable: the target's disk is not mounted.
        """
        self.require()
        try:
            for folder in (self.folder, self.store, *(self.folder / kind for kind in KINDS)):
                with contextlib.suppress(FileExistsError):
                    folder.mkdir(mode=0o700, parents=True)
            ownership.require_own(self.folder, self.store, self.records)
            held = lock("backup", purpose, folder=self.store, wait=wait, say=say)
            descriptor = held.__enter__()
        except OSError as error:
            raise unwritable(self.folder, error) from error
        with contextlib.ExitStack() as stack:
            stack.push(held)
            self.mark.require_known()
            self.sweep()
            if self.use != "any" or not self.mark.is_lost():
                self.mark.settle()
            yield descriptor

    def require(self) -> None:
        """Check that this is still the same target.

        Raises:
            Unreachable: its disk is not mounted.
        """
        if self.use == "known":
            self.mark.require()

    def sweep(self) -> None:
        """Remove unfinished and half-deleted backups; only the holder of the lock may do so."""
        for left in [*self.store.glob(f"{BUILDING}*"), *self.store.glob(f"{TRASH}*")]:
            with contextlib.suppress(OSError):
                remove_tree(left)
        for half in [*self.store.glob(".*.json.????????"), *self.records.glob(".*.json.????????")]:
            half.unlink(missing_ok=True)
        self.mark.sweep()

    @contextlib.contextmanager
    def building(self) -> Iterator[Path]:
        """Provide a folder to build a backup in; it is removed afterwards unless it was published."""
        folder = Path(tempfile.mkdtemp(prefix=BUILDING, dir=self.store))
        try:
            yield folder
        finally:
            with contextlib.suppress(OSError):
                remove_tree(folder)

    def publish(self, built: Path, kind: BackupKind, name: str) -> Path:
        """Make a finished backup visible; it is safely on disk when this returns."""
        place = self.folder / kind / name
        every = [*built.rglob("*"), built]
        # In parallel: the file system flushes many files together, but sequential calls would each wait for a turn.
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(sync_file, [path for path in every if path.is_file() and not path.is_symlink()]))
            list(pool.map(sync_folder, [path for path in every if path.is_dir() and not path.is_symlink()]))
        built.chmod(0o700)
        os.replace(built, place)
        sync_folder(place.parent)
        return place

    def discard(self, one: StoredBackup) -> None:
        """Delete a backup, after moving it out of sight."""
        # Only a rename: on a full disk no folder could be made for it.
        place = self.store / f"{TRASH}{one.name}"
        try:
            os.replace(one.folder, place)
            sync_folder(one.folder.parent)
            self._record_file(one.name).unlink(missing_ok=True)
            remove_tree(place)
        except OSError as error:
            raise unwritable(self.folder, error) from error

    @property
    def records(self) -> Path:
        return self.store / "records"

    def record(self, one: StoredBackup) -> CheckRecord:
        """Return what is known about a backup; nothing if its manifest has changed since."""
        try:
            content = json.loads(within.content(self.store, f"records/{one.name}.json", LARGEST))
            if CHECKED.newer(content) or content.get("manifest") != digest_of(one):
                return CheckRecord()
            return CheckRecord(*(_moment(content.get(name)) for name in ("verified", "drilled")))
        except (OSError, ValueError, AttributeError, TypeError):
            return CheckRecord()

    def note(self, one: StoredBackup, record: CheckRecord) -> None:
        """Store what is known about a backup."""
        content = {
            "manifest": digest_of(one),
            **{name: value.isoformat() for name in ("verified", "drilled") if (value := getattr(record, name))},
        }
        try:
            self.records.mkdir(mode=0o700, exist_ok=True)
            write_atomic(self._record_file(one.name), json.dumps(CHECKED.stamped(content)).encode(), mode=0o600)
        except OSError as error:
            raise unwritable(self.folder, error) from error

    def free_name(self, kind: BackupKind, moment: datetime) -> str:
        """Return the name of a backup that begins at this moment, with a number if that name is taken."""
        wanted = name_of(self.stack, kind, moment)
        names = (wanted, *(f"{wanted}-{number}" for number in range(2, 100)))
        return next(name for name in names if not (self.folder / kind / name).exists())

    def _record_file(self, name: str) -> Path:
        return self.records / f"{name}.json"

    def _parsed(self, folder: Path, kind: BackupKind) -> StoredBackup | None:
        match = _NAME.fullmatch(folder.name)
        if not match or match["kind"] != kind or match["stack"] != self.stack:
            return None
        try:
            named = datetime.strptime(match["time"], "%Y%m%d_%H%M%S").astimezone(UTC)
        except (ValueError, OverflowError):
            return None
        return StoredBackup(folder, kind, named, self.keys)


def none_proven(place: Path | str, count: int, unknown: str) -> NotFound:
    """Return the error for asking for the latest backup where none is known to be the stack's own."""
    return NotFound(
        "no-proven-backup",
        f"None of the backups there ({count}) is proven to be this stack's, so there is no latest one"
        + (f": the keys cannot be read here: {unknown}" if unknown else "."),
        looked_at=[str(place)],
        next_command="invoke backup.list    # then name one",
    )


def is_future(created: datetime, now: datetime) -> bool:
    """Return whether a backup is from the future: the clock was wrong when it was made, or is now."""
    return created > now + AHEAD


def future_said(backups: Iterable[StoredBackup], now: datetime) -> list[str]:
    """Return warnings about backups from the future."""
    return [
        f"{one.name} is from the future and is ignored; run: invoke backup.prune --future"
        for one in backups
        if one.trusted and is_future(one.created, now)
    ]


def name_of(stack: str, kind: str, moment: datetime) -> str:
    """Return `<stack>_<kind>_<YYYYMMDD_HHMMSS>`, by the local clock as documented."""
    return f"{stack}_{kind}_{moment.astimezone():%Y%m%d_%H%M%S}"


def unwritable(folder: Path, error: OSError) -> Refused:
    """Return the error for a target that cannot be written or is full."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Refused(
            "target-full",
            f"The disk is full: {error.strerror}. The unfinished files were removed.",
            looked_at=[str(folder)],
            next_command="invoke backup.prune --dry-run    # what could be deleted\ndf -h " + str(folder),
        )
    return Refused(
        "target-unwritable",
        f"{folder} cannot be written: {error.strerror}.",
        looked_at=[str(error.filename or folder)],
        next_command=f"mkdir -p {folder} && ls -ld {folder}",
    )


def digest_of(one: StoredBackup) -> str:
    """Return the sha256 of a backup's manifest as it is now."""
    import hashlib

    return hashlib.sha256(within.content(one.folder, manifest.FILE, manifest.LARGEST)).hexdigest()


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
