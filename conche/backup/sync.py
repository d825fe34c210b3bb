"""backup.sync: keeps backups in a restic repository elsewhere, encrypted, and each piece only once.

Archives are sent in the pieces in which they were written (archive.py): an unchanged file is the same piece, so
fourteen backups cost little more than one. Joined again, the pieces are the archive, bit for bit.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from conche.backup import manifest, reporting, trust, within
from conche.backup.deep import remove_tree
from conche.backup.history import history
from conche.backup.locks import locked
from conche.backup.mac import Provenance
from conche.backup.manifest import Artifact, Manifest, human_size
from conche.backup.repository import NoRepository, Repository, by_name, opened
from conche.backup.site import Site, open_site
from conche.backup.snapshots import Snapshot, superfluous
from conche.backup.summary import doubts
from conche.backup.target import BUILDING, RESERVE, StoredBackup, is_future, none_proven
from conche.backup.verify import check
from conche.command import Invocation
from conche.errors import CheckFailed, NotFound, Refused, Unreachable, did_you_mean
from conche.outcome import Action, Kind, Outcome, Plan, Step, Table
from conche.stack import KINDS, BackupKind, Offsite

__all__ = ["fetch", "sync"]

PIECES = ".pieces"
IN_FOLDER = 500
"""Pieces in one folder: restic stores a folder's list again if anything in it has changed."""


def sync(call: Invocation) -> Outcome:
    """Send the backups that are not there yet, and forget those that the repository's own retention does not keep."""
    site = open_site(call)
    repository, offsite = opened(call, site)
    with reporting.reported(call, site, "backup.sync") as told:
        with locked(call, site, "invoke backup.sync", wait=call.patience(60.0)):
            try:
                there, made = repository.snapshots(), True
            except NoRepository:
                there, made = (), False
            local = _local(site)
            missing = _missing(site, offsite, _recognised(there, local), local)
            plan = Plan(tuple(Step(Action.SEND, Kind.BACKUP, one.name, "not in the repository") for one in missing))
            if call.dry_run:
                return Outcome(plan=plan)
            if missing:
                there = _recognised(_sent(site, repository, missing, local, made=made), local)
                there = _kept(site, repository, there, offsite)
        outcome = _outcome(repository, there, missing, plan)
        outcome = replace(outcome, lines=[*doubts(site.target.backups()), *outcome.lines])
        told(outcome)
        return outcome


def _local(site: Site) -> dict[str, Snapshot]:
    """Return the target's backups as they would be in the repository; one that is not verified has no sound part."""
    backups = [one for one in site.target.backups() if one.trusted]
    told = history((one.name, one.manifest) for one in backups if one.manifest)
    found = {}
    for one in backups:
        if one.manifest is None:
            continue
        sound = told.sound[one.name] if site.target.record(one).verified else frozenset()
        complete = told.complete(one.name, one.manifest)
        found[one.name] = Snapshot("", one.name, one.kind, one.created, complete, sound)
    return found


def _recognised(there: Sequence[Snapshot], local: Mapping[str, Snapshot]) -> tuple[Snapshot, ...]:
    """Complete the snapshots that an older version has sent by what the target's backups of the same name tell."""
    known = {name: one for name, one in local.items() if one.sound}
    return tuple(
        replace(one, complete=known[one.name].complete, sound=known[one.name].sound)
        if one.sound is None and one.name in known
        else one
        for one in there
    )


def _sent(
    site: Site, repository: Repository, missing: Sequence[StoredBackup], local: Mapping[str, Snapshot], *, made: bool
) -> tuple[Snapshot, ...]:
    """Send backups, the oldest first, to the repository, made if necessary; return all snapshots in it."""
    if not made:
        repository.call("init")
    for one in reversed(missing):
        _send(site, repository, one, local[one.name].tags(repository.keys))
    return repository.snapshots()


def _missing(
    site: Site, offsite: Offsite, there: Sequence[Snapshot], local: Mapping[str, Snapshot]
) -> list[StoredBackup]:
    """Return the backups that are not there but would be kept, the newest first; none from the future."""
    present, now = {one.name for one in there if not one.doubt}, datetime.now(UTC)
    together = [*there, *(one for name, one in local.items() if name not in present)]
    together.sort(key=lambda one: one.time, reverse=True)
    gone = {one.name for one in superfluous(together, _retention(offsite), now)}
    wanted = {name for name, one in local.items() if name not in present | gone and not is_future(one.time, now)}
    return [one for one in site.target.backups() if one.name in wanted]


def _send(site: Site, repository: Repository, one: StoredBackup, tags: Sequence[str]) -> None:
    known = one.manifest
    assert known is not None
    site.say(f"sending {one.name}")
    if damage := check(one.folder, known):
        raise CheckFailed(
            "backup-damaged",
            f"{one.name} is damaged and was not sent.",
            evidence=[str(each) for each in damage],
            next_command="invoke backup.verify --all",
        )
    with _staging(site) as folder:
        for artifact in known.artifacts():
            _laid_out(one.folder, artifact, folder)
        _write(folder / manifest.FILE, [_rendered(one.folder)])
        os.utime(folder / manifest.FILE, (0, 0))
        when = f"{one.created.astimezone():%Y-%m-%d %H:%M:%S}"
        words = ("--host", repository.host, *(word for tag in tags for word in ("--tag", tag)), "--time", when)
        repository.call("backup", *words, ".", cwd=folder)


def _kept(site: Site, repository: Repository, there: Sequence[Snapshot], offsite: Offsite) -> tuple[Snapshot, ...]:
    """Forget what retention does not keep; return the snapshots that remain."""
    kept, now = _retention(offsite), datetime.now(UTC)
    unsaid = {one.name for one in superfluous(there, kept, now) if one.sound is None}
    there = [_looked_into(site, repository, one) if one.name in unsaid else one for one in there]
    proven = {one.name for one in there if not one.doubt}
    gone = [one for one in superfluous(there, kept, now) if one.sound is not None]
    # It was sent again when it was adopted.
    gone += [one for one in there if one.doubt == Provenance.UNPROVEN and one.name in proven]
    if gone:
        repository.call("forget", "--prune", *(one.id for one in gone))
    return tuple(one for one in there if one not in gone)


def _looked_into(site: Site, repository: Repository, one: Snapshot) -> Snapshot:
    """Complete a snapshot from its manifest; if that cannot be read, the snapshot stays as it is and is kept."""
    with _staging(site) as folder, suppress(Unreachable, CheckFailed):
        repository.call("restore", one.id, "--target", str(folder), "--include", f"/{manifest.FILE}")
        known = manifest.read(folder)
        return replace(one, complete=known.complete, sound=history([(one.name, known)]).sound[one.name])
    return one


def _retention(offsite: Offsite) -> dict[str, int]:
    return {kind: getattr(offsite, kind) for kind in KINDS}


def _laid_out(backup: Path, artifact: Artifact, folder: Path) -> None:
    """Lay an artifact of a backup out for restic: an archive in its pieces, anything else unchanged."""
    with within.proven(backup, artifact.path, artifact.size, artifact.sha256) as file:
        for name, size in _parts(artifact):
            place = folder / name
            place.parent.mkdir(parents=True, exist_ok=True)
            _write(place, file.blocks(size))
            # restic stores times too: a constant one keeps the lists of folders the same.
            os.utime(place, (0, 0))


def _parts(artifact: Artifact) -> list[tuple[str, int]]:
    """Return the paths of an artifact's parts in the repository, and the size of each in bytes."""
    sizes = [int(size) for size in artifact.pieces.split()]
    if len(sizes) < 2:
        return [(artifact.path, artifact.size)]
    folder = artifact.path + PIECES
    return [(f"{folder}/{number // IN_FOLDER:05}/{number:07}", size) for number, size in enumerate(sizes)]


def _write(place: Path, blocks: Iterable[bytes]) -> None:
    """Write a new file (0600)."""
    descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        for block in blocks:
            stream.write(block)


def fetch(call: Invocation, site: Site, name: str, *, unproven: bool = False) -> StoredBackup:
    """Fetch a backup from the repository into the target and verify it, unless it is there already, undamaged.

    Args:
        unproven: even if nothing proves that it is this stack's.

    Raises:
        Refused: nothing proves it; what is in the target has not been replaced by it.
    """
    repository, _ = opened(call, site)
    listed, now = repository.listed(), datetime.now(UTC)
    there = by_name(listed)
    if name == "latest" and (trusted := [one for one in listed if not one.doubt]):
        name = next((one for one in trusted if not is_future(one.time, now)), trusted[0]).name
    elif name == "latest" and listed:
        raise none_proven(repository.address, len(listed), repository.keys.unknown)
    if name not in there:
        raise NotFound(
            "no-such-backup",
            f"The repository has no backup {name!r}.{did_you_mean(name, there)}",
            looked_at=[repository.address],
            next_command="invoke backup.restore --from offsite",
        )
    for one in site.target.backups():
        # What is not trusted must not stand in the way of a proven one of the same name.
        if one.name == name and (one.trusted or unproven) and one.manifest and not check(one.folder, one.manifest):
            return one
    site.say(f"fetching {name}")
    with locked(call, site, f"invoke backup.restore {name}", wait=call.patience(60.0)), _staging(site) as folder:
        known = _announced(repository, there[name], name, folder, unproven=unproven)
        kind = _kind_of(known, name, repository.address)
        _require_bounds(site, repository, there[name], known, (folder / manifest.FILE).stat().st_size)
        repository.call("restore", there[name], "--target", str(folder), "--exclude", f"/{manifest.FILE}")
        with site.target.building() as built:
            _put_together(folder, built, known)
            if damage := check(built, known):
                raise CheckFailed(
                    "offsite-damaged",
                    f"The repository's copy of {name} differs from what was sent.",
                    evidence=[str(each) for each in damage],
                    next_command=f"restic --repo {repository.address} check --read-data",
                )
            present = next((one for one in site.target.backups() if one.name == name), None)
            if present is not None:
                site.target.discard(present)
            site.target.publish(built, kind, name)
    return site.target.find(name)


def _announced(repository: Repository, snapshot: str, name: str, folder: Path, *, unproven: bool) -> Manifest:
    """Fetch the manifest of a backup alone: before it proves anything, nothing else of the snapshot is read.

    Raises:
        CheckFailed: it cannot be read.
        Refused: nothing proves it.
    """
    if (size := repository.size_of(snapshot, f"/{manifest.FILE}")) > manifest.LARGEST:
        raise _contradicted(name, f"its manifest has {human_size(size)}", repository)
    repository.call("restore", snapshot, "--target", str(folder), "--include", f"/{manifest.FILE}")
    read = manifest.examined(folder, repository.keys)
    known = read.required()
    if not unproven:
        trust.require_provenance(name, read.provenance, repository.keys, repository.address)
    return known


def _require_bounds(site: Site, repository: Repository, snapshot: str, known: Manifest, own: int) -> None:
    """Refuse a snapshot that says it holds more than its manifest, or more than there is room for.

    Args:
        own: the size of the manifest itself in bytes.
    """
    files = {name for artifact in known.artifacts() for name, _ in _parts(artifact)} | {manifest.FILE}
    folders = {str(one) for name in files for one in PurePosixPath(name).parents}
    size, count = repository.extent(snapshot)
    said = own + sum(artifact.size for artifact in known.artifacts())
    if size > said or count > len(files | folders):
        held = f"it holds {count} entries with {human_size(size)}, and its manifest says {human_size(said)}"
        raise _contradicted(known.name, held, repository)
    free = shutil.disk_usage(site.target.folder).free
    if free < (needed := 2 * size + RESERVE):  # in parts, and put together
        raise Refused(
            "target-full",
            f"{known.name} needs about {human_size(needed)} to be fetched; {human_size(free)} are free.",
            looked_at=[str(site.target.folder)],
            next_command="invoke backup.prune --dry-run    # what could be deleted",
        )


def _contradicted(name: str, why: str, repository: Repository) -> CheckFailed:
    return CheckFailed(
        "offsite-damaged",
        f"The repository's copy of {name} differs from what was sent: {why}. It was not fetched.",
        looked_at=[repository.address],
        next_command="invoke backup.restore --from offsite    # lists the backups",
    )


def _kind_of(known: Manifest, name: str, address: str) -> BackupKind:
    """Return the kind of a backup that was fetched under a name.

    Raises:
        CheckFailed: it is another backup, or of a kind that there is not: whoever can write to the repository may have
            put anything under that name.
    """
    kind = next((one for one in KINDS if one == known.kind), None)
    if kind is None or known.name != name:
        raise CheckFailed(
            "offsite-damaged",
            f"The backup called {name} in the repository says it is {known.name!r}, {known.kind!r}.",
            looked_at=[address],
            next_command="invoke backup.restore --from offsite    # lists the backups",
        )
    return kind


def _put_together(folder: Path, built: Path, known: Manifest) -> None:
    """Put a backup together from its parts, as they were fetched; whoever compares it finds what is missing."""
    _write(built / manifest.FILE, [_rendered(folder)])
    for artifact in known.artifacts():
        place = built / artifact.path
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(place, _fetched(folder, artifact))
    for record in known.components.values():
        for link in record.links:
            place = built / link.path
            place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            place.symlink_to(link.target)


def _fetched(folder: Path, artifact: Artifact) -> Iterator[bytes]:
    for name, size in _parts(artifact):
        try:
            part = within.opened(folder, name)
        except OSError:
            continue
        with part:
            yield from part.blocks(size)


def _rendered(folder: Path) -> bytes:
    """Return a manifest's bytes: an older version has rendered it otherwise than this one would."""
    return within.content(folder, manifest.FILE, manifest.LARGEST)


@contextmanager
def _staging(site: Site) -> Iterator[Path]:
    """Provide a folder on the target's disk; after a kill it is swept like the folders that backups are built in."""
    folder = Path(tempfile.mkdtemp(prefix=BUILDING, dir=site.target.store))
    try:
        yield folder
    finally:
        with suppress(OSError):
            remove_tree(folder)


def _outcome(repository: Repository, there: Sequence[Snapshot], sent: list[StoredBackup], plan: Plan) -> Outcome:
    names = {one.name for one in sent}
    present = by_name(there)
    rows = tuple((name, snapshot[:8], "sent" if name in names else "") for name, snapshot in sorted(present.items()))
    return Outcome(
        value={"repository": repository.address, "sent": sorted(names), "there": sorted(present)},
        changed=bool(names),
        plan=plan,
        tables=[Table(("backup", "snapshot", "now"), rows, title=repository.address)],
        lines=[] if names else ["Nothing to send."],
    )
