"""backup.sync: backups in a restic repository elsewhere, encrypted there, each piece once.

Archives go there in the pieces they were written in (archive.py): a file that has not changed is the same piece, so
fourteen backups cost little more than one. Put together again they are the archives, bit by bit.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from conche.backup import manifest, reporting
from conche.backup.manifest import Artifact, Manifest
from conche.backup.site import Site, open_site
from conche.backup.target import BUILDING, Found
from conche.backup.verify import check
from conche.command import Invocation
from conche.errors import CheckFailed, KeyUnusable, NotFound, Refused, Unreachable, did_you_mean
from conche.outcome import Outcome, Plan, Step, Table
from conche.process import Completed, run
from conche.secret import Secret
from conche.stack import KINDS, Offsite

__all__ = ["NoRepository", "Repository", "Snapshot", "fetch", "opened", "superfluous", "sync"]

PIECES = ".pieces"
IN_FOLDER = 500
"""Pieces in one folder: restic stores the list of a folder anew when anything in it is different."""

DAY = 86_400.0
BLOCK = 1 << 20


@dataclass(frozen=True)
class Snapshot:
    """A snapshot of a restic repository that holds a backup.

    Attributes:
        id: restic's name of it.
        name: of the backup.
        kind: daily, weekly or monthly.
        time: when the backup was created.
    """

    id: str
    name: str
    kind: str
    time: datetime


def _snapshot(listed: Mapping[str, Any]) -> Snapshot | None:
    """A snapshot as `restic snapshots --json` lists it; none where it holds no backup of ours."""
    tags = dict(tag.split("=", 1) for tag in listed.get("tags") or [] if "=" in tag)
    if not {"name", "kind"} <= tags.keys():
        return None
    return Snapshot(listed["id"], tags["name"], tags["kind"], datetime.fromisoformat(listed["time"]))


def superfluous(there: Sequence[Snapshot], kept: Mapping[str, int]) -> tuple[Snapshot, ...]:
    """What retention does not keep: of each kind all but the newest; a kind of which none is kept is left alone.

    Args:
        there: the newest first.
        kept: how many of each kind.
    """
    return tuple(
        one for kind, number in kept.items() if number for one in [one for one in there if one.kind == kind][number:]
    )


@dataclass(frozen=True)
class Repository:
    """A restic repository.

    Attributes:
        variables: its password and credentials, which go into restic's environment and nowhere else.
    """

    address: str
    host: str
    variables: Mapping[str, Secret]

    def call(self, *words: str, cwd: Path | None = None) -> Completed:
        """Run restic.

        Raises:
            Unreachable: it is not installed, or cannot reach the repository.
            KeyUnusable: the password is wrong.
        """
        env = {name: value.reveal() for name, value in self.variables.items()}
        argv = ["restic", "--repo", self.address, "--no-cache", "--quiet", *words]
        done = run(argv, extra_env=env, cwd=cwd, timeout=DAY)
        return done if done.ok else self._failed(done)

    def snapshots(self) -> tuple[Snapshot, ...]:
        """The snapshots of this stack's backups, the newest first.

        Raises:
            NoRepository: it has not been made yet.
        """
        listed = json.loads(self.call("snapshots", "--json", "--host", self.host).stdout.raw or "[]")
        found = filter(None, map(_snapshot, listed or []))
        return tuple(sorted(found, key=lambda one: one.time, reverse=True))

    def backups(self) -> dict[str, str]:
        """The snapshot of each backup that is there, by the backup's name; none where there is no repository yet."""
        try:
            return {one.name: one.id for one in reversed(self.snapshots())}
        except NoRepository:
            return {}

    def _failed(self, done: Completed) -> Completed:
        words = done.stderr.raw
        if "wrong password" in words:
            raise KeyUnusable(
                "offsite-password-wrong",
                f"The password does not open the repository {self.address}.",
                next_command="invoke secrets.set NAME    # the secret that backup.offsite.password names",
            )
        if "Is there a repository at the following location" in words or "config file does not exist" in words:
            raise NoRepository("offsite-missing", f"There is no repository at {self.address}.")
        raise Unreachable(
            "offsite-failed",
            f"restic could not work with {self.address}.",
            evidence=done.last_lines(6),
            next_command=f"restic --repo {self.address} snapshots",
        )


class NoRepository(NotFound):
    """The repository has not been made yet."""


def opened(call: Invocation, site: Site) -> tuple[Repository, Offsite]:
    """The repository of the stack.

    Raises:
        Refused: stack.yaml has none.
        KeyUnusable: its password cannot be had.
    """
    offsite = site.section.offsite
    if offsite is None:
        raise Refused(
            "no-offsite-declared",
            "stack.yaml has no section `backup.offsite`.",
            next_command="declare it as docs/reference/stack.md shows",
        )
    names = {"RESTIC_PASSWORD": offsite.password, **offsite.variables}
    values = reporting.secrets_of(call, site, tuple(names.values()))
    absent = [name for name in names.values() if name not in values]
    if absent:
        raise Refused(
            "offsite-secret-missing",
            f"The encrypted file has no {', '.join(absent)}, which backup.offsite names.",
            next_command=f"invoke secrets.set {absent[0]} --generate",
        )
    address = offsite.repository
    if ":" not in address.partition("/")[0]:
        address = str((site.root / Path(address).expanduser()).resolve())
    return Repository(address, site.stack.name, {name: values[one] for name, one in names.items()}), offsite


def sync(call: Invocation) -> Outcome:
    """Send what is not there yet, and forget there what its own retention does not keep."""
    site = open_site(call)
    repository, offsite = opened(call, site)
    with reporting.reported(call, site, "backup.sync") as told:
        with site.locked("invoke backup.sync", wait=60):
            try:
                there, made = repository.snapshots(), True
            except NoRepository:
                there, made = (), False
            missing = list(_missing(site, offsite, {one.name for one in there}))
            plan = Plan(tuple(Step("send", f"backup {one.name}", "not in the repository") for one in missing))
            if call.dry_run:
                return Outcome(plan=plan)
            if missing:
                there = _sent(site, repository, missing, made=made)
                there = _kept(repository, there, offsite)
        outcome = _outcome(repository, there, missing, plan)
        told(outcome)
        return outcome


def _sent(site: Site, repository: Repository, missing: Sequence[Found], *, made: bool) -> tuple[Snapshot, ...]:
    """Send these, the oldest first, into a repository that is made where it has not been; what is there then."""
    if not made:
        repository.call("init")
    for one in reversed(missing):
        _send(site, repository, one)
    return repository.snapshots()


def _missing(site: Site, offsite: Offsite, there: Collection[str]) -> Iterator[Found]:
    """The newest backups of each kind, as many as are kept there, that are not there; the newest first."""
    kept = _retention(offsite)
    for one in site.target.backups():
        if kept[one.kind] == 0 or one.manifest is None:
            continue
        kept[one.kind] -= 1
        if one.name not in there:
            yield one


def _send(site: Site, repository: Repository, one: Found) -> None:
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
            _laid_out(one.folder / artifact.path, artifact, folder)
        (folder / manifest.FILE).write_bytes((one.folder / manifest.FILE).read_bytes())
        os.utime(folder / manifest.FILE, (0, 0))
        when = f"{one.created.astimezone():%Y-%m-%d %H:%M:%S}"
        words = ("--host", repository.host, "--tag", f"name={one.name}", "--tag", f"kind={one.kind}", "--time", when)
        repository.call("backup", *words, ".", cwd=folder)


def _kept(repository: Repository, there: Sequence[Snapshot], offsite: Offsite) -> tuple[Snapshot, ...]:
    """Forget what retention does not keep; what is there then."""
    gone = superfluous(there, _retention(offsite))
    if gone:
        repository.call("forget", "--prune", *(one.id for one in gone))
    return tuple(one for one in there if one not in gone)


def _retention(offsite: Offsite) -> dict[str, int]:
    return {kind: getattr(offsite, kind) for kind in KINDS}


def _laid_out(source: Path, artifact: Artifact, folder: Path) -> None:
    """An artifact as restic shall have it: an archive in its pieces, anything else as it is."""
    place = folder / artifact.path
    place.parent.mkdir(parents=True, exist_ok=True)
    sizes = [int(size) for size in artifact.pieces.split()]
    if len(sizes) < 2:
        shutil.copyfile(source, place)
        os.utime(place, (0, 0))
        return
    pieces = place.with_name(place.name + PIECES)
    with source.open("rb") as stream:
        for number, size in enumerate(sizes):
            piece = pieces / f"{number // IN_FOLDER:05}" / f"{number:07}"
            piece.parent.mkdir(parents=True, exist_ok=True)
            piece.write_bytes(stream.read(size))
            # restic stores times too: always the same one keeps the lists of folders the same.
            os.utime(piece, (0, 0))


def fetch(call: Invocation, site: Site, name: str) -> Found:
    """Bring a backup from the repository into the target, verified, unless it is there already."""
    repository, _ = opened(call, site)
    there = repository.backups()
    if name == "latest" and there:
        name = max(there, key=lambda each: each.rpartition("_")[0].rpartition("_")[2] + each.rpartition("_")[2])
    if name not in there:
        raise NotFound(
            "no-such-backup",
            f"The repository has no backup {name!r}.{did_you_mean(name, there)}",
            looked_at=[repository.address],
            next_command="invoke backup.restore --from offsite",
        )
    for one in site.target.backups():
        if one.name == name and one.manifest and not check(one.folder, one.manifest):
            return one
    site.say(f"fetching {name}")
    with site.locked(f"invoke backup.restore {name}", wait=60), _staging(site) as folder:
        repository.call("restore", there[name], "--target", str(folder))
        known = manifest.read(folder)
        with site.target.building() as built:
            _put_together(folder, built, known)
            if damage := check(built, known):
                raise CheckFailed(
                    "offsite-damaged",
                    f"What the repository has of {name} is not what was sent.",
                    evidence=[str(each) for each in damage],
                    next_command=f"restic --repo {repository.address} check --read-data",
                )
            kind = next(kind for kind in KINDS if kind == known.kind)
            present = next((one for one in site.target.backups() if one.name == name), None)
            if present is not None:
                site.target.discard(present)
            site.target.publish(built, kind, name)
    return site.target.find(name)


def _put_together(folder: Path, built: Path, known: Manifest) -> None:
    for artifact in known.artifacts():
        place = built / artifact.path
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        pieces = folder / (artifact.path + PIECES)
        parts = sorted(pieces.glob("*/*")) if pieces.is_dir() else [folder / artifact.path]
        descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            for part in parts:
                with part.open("rb") as content:
                    shutil.copyfileobj(content, stream, BLOCK)
    for record in known.components.values():
        for link in record.links:
            place = built / link.path
            place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            place.symlink_to(link.target)
    (built / manifest.FILE).write_bytes((folder / manifest.FILE).read_bytes())
    (built / manifest.FILE).chmod(0o600)


@contextmanager
def _staging(site: Site) -> Iterator[Path]:
    """A folder on the target's disk; a kill's is swept with those in which backups are built."""
    folder = Path(tempfile.mkdtemp(prefix=BUILDING, dir=site.target.store))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _outcome(repository: Repository, there: Sequence[Snapshot], sent: list[Found], plan: Plan) -> Outcome:
    names = {one.name for one in sent}
    present = {one.name: one.id for one in reversed(there)}
    rows = tuple((name, snapshot[:8], "sent" if name in names else "") for name, snapshot in sorted(present.items()))
    return Outcome(
        value={"repository": repository.address, "sent": sorted(names), "there": sorted(present)},
        changed=bool(names),
        plan=plan,
        tables=[Table(("backup", "snapshot", "now"), rows, title=repository.address)],
        lines=[] if names else ["Nothing to send."],
    )
