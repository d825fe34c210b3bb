"""backup.adopt: proves a backup that was made before there was a key for it, once it has been read through."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from conche.backup import within
from conche.backup.deep import everything
from conche.backup.legacy import described
from conche.backup.locks import locked
from conche.backup.mac import Keys, Provenance
from conche.backup.manifest import FILE, TEXT, Artifact, ComponentRecord, Link, Manifest
from conche.backup.site import Site, open_site
from conche.backup.target import CheckRecord, StoredBackup, unwritable
from conche.backup.trust import require_keys
from conche.backup.verify import check
from conche.command import Invocation
from conche.errors import CheckFailed, ConcheError, Refused
from conche.files import write_atomic
from conche.outcome import Action, Kind, Outcome, Plan, Step, Table

__all__ = ["adopt"]


@dataclass(frozen=True)
class _Adoption:
    name: str
    adopted: bool
    said: str


def adopt(call: Invocation, name: str | None, *, every: bool, foreign: bool) -> Outcome:
    """Adopt one backup, or all that are unproven; what is damaged stays as it is.

    Raises:
        Refused: neither or both were asked for, the stack has no key, or the one that was named is foreign.
        KeyUnusable: the stack's keys cannot be read.
    """
    if (name is not None) == every or (every and foreign):
        raise Refused("which-backups", "Name one backup, or say --all.", next_command="invoke backup.list")
    site = open_site(call)
    keys = require_keys(site)
    if call.dry_run:
        return Outcome(plan=_plan(_chosen(site, name, foreign=foreign)))
    with locked(call, site, "invoke backup.adopt"):
        chosen = _chosen(site, name, foreign=foreign)
        try:
            results = [_adopted(site, one, keys) for one in chosen]
        except OSError as error:
            raise unwritable(site.target.folder, error) from error
    return _outcome(results, _plan(chosen))


def _plan(chosen: list[StoredBackup]) -> Plan:
    return Plan(tuple(Step(Action.ADOPT, Kind.BACKUP, one.name, f"it is {one.provenance}") for one in chosen))


def _chosen(site: Site, name: str | None, *, foreign: bool) -> list[StoredBackup]:
    if name is None:
        return [one.asked_for() for one in site.target.backups() if one.provenance is Provenance.UNPROVEN]
    found = site.target.find(name).asked_for()
    if found.provenance is Provenance.FOREIGN and not foreign:
        raise Refused(
            "backup-foreign",
            f"{name} has a MAC that no key of this stack has made, or was changed since it was made.",
            looked_at=[str(found.folder)],
            next_command=f"invoke backup.adopt {name} --foreign    # if its key is lost, and you know the backup",
        )
    return [] if found.provenance is Provenance.OURS else [found]


def _adopted(site: Site, one: StoredBackup, keys: Keys) -> _Adoption:
    site.say(f"reading {one.name}")
    try:
        known = _whole(site, one)
        if known.name != one.name or known.kind != one.kind:
            raise CheckFailed("manifest-refused", f"its manifest is that of {known.name}")
        if damage := check(one.folder, known, deep=True):
            raise CheckFailed("backup-damaged", "; ".join(map(str, damage[:3])))
    except ConcheError as error:
        return _Adoption(one.name, adopted=False, said=error.message)
    write_atomic(one.folder / FILE, known.render(keys), mode=0o600)
    site.target.note(
        StoredBackup(one.folder, one.kind, one.named, site.target.keys), CheckRecord(verified=datetime.now(UTC))
    )
    return _Adoption(one.name, adopted=True, said="proven from now on")


def _whole(site: Site, one: StoredBackup) -> Manifest:
    """Return a manifest with everything in it; for a backup of the old script also what restores make nothing of."""
    known = described(site, one)
    if one.manifest is not None:
        return known
    listed = {artifact.path for artifact in known.artifacts()}
    listed |= {link.path for record in known.components.values() for link in record.links}
    components = dict(known.components)
    for name, record in _others(one.folder, listed):
        components[name] = record
    text = _artifact(one.folder, TEXT) if (one.folder / TEXT).is_file() else None
    content = {**known.model_dump(), "components": components, "text": text}
    return Manifest.model_validate(content)


def _others(folder: Path, listed: set[str]) -> Iterator[tuple[str, ComponentRecord]]:
    """Yield the folders of which nothing is listed, as components that are only files."""
    for top in sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()):
        paths = sorted(Path(entry.path) for entry in everything(top))
        relative = {path: str(path.relative_to(folder)) for path in paths}
        if any(name in listed for name in relative.values()):
            continue
        artifacts = tuple(
            _artifact(folder, relative[path]) for path in paths if not path.is_symlink() and path.is_file()
        )
        links = tuple(Link(path=relative[path], target=str(path.readlink())) for path in paths if path.is_symlink())
        yield top.name, ComponentRecord(driver="files", artifacts=artifacts, links=links)


def _artifact(folder: Path, name: str) -> Artifact:
    with within.opened(folder, name) as file:
        return Artifact(path=name, size=file.seen.st_size, mode=file.seen.st_mode & 0o777, sha256=file.digest())


def _outcome(results: list[_Adoption], plan: Plan) -> Outcome:
    left = [one for one in results if not one.adopted]
    rows = tuple((one.name, "adopted" if one.adopted else "left as it is", one.said) for one in results)
    return Outcome(
        value=[{"name": one.name, "adopted": one.adopted, "said": one.said} for one in results],
        changed=len(left) < len(results),
        plan=plan,
        tables=[Table(("backup", "what", "because"), rows)] if rows else [],
        lines=[] if rows else ["Nothing to adopt."],
        exit_code=1 if left else 0,
    )
