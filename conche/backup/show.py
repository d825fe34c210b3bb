"""backup.list, show, diff and status: what there is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

from conche.backup.manifest import Artifact, Manifest, human_size, read
from conche.backup.site import Site, open_site
from conche.backup.target import Found, future_said, is_future
from conche.command import Invocation
from conche.errors import Refused
from conche.outcome import Outcome, Table
from conche.stack import KINDS, Kind

__all__ = ["OLDEST", "diff", "list_backups", "new_bytes", "show", "status"]

OLDEST: dict[Kind, timedelta] = {
    "daily": timedelta(hours=26),
    "weekly": timedelta(days=8),
    "monthly": timedelta(days=32),
}
"""The age of a kind's newest verified backup from which on something is wrong: its interval and some slack."""

COLUMNS = ("backup", "age", "size", "new", "verified", "drilled", "state")


def list_backups(call: Invocation) -> Outcome:
    """Every backup, the newest first."""
    site = open_site(call)
    backups = site.target.backups()
    now = datetime.now(UTC)
    value = [_described(site, one, backups[place + 1 :], now) for place, one in enumerate(backups)]
    rows = tuple(
        (
            str(one["name"]),
            _age(now - backups[place].created),
            human_size(float(str(one["size"]))),
            human_size(float(str(one["new"]))),
            _ago(site.target.record(backups[place]).verified, now),
            _ago(site.target.record(backups[place]).drilled, now),
            f"{one['state']}, from the future" if one["future"] else str(one["state"]),
        )
        for place, one in enumerate(value)
    )
    last = future_said(backups, now) if backups else ["Next: invoke backup.create daily"]
    return Outcome(value=value, tables=[Table(COLUMNS, rows, title=str(site.target.folder))], lines=last)


def new_bytes(one: Found, older: Sequence[Found]) -> int:
    """Bytes that no older backup has: what it costs to keep."""
    if one.manifest is None:
        return one.size
    known = {artifact.sha256 for other in older if other.manifest for artifact in other.manifest.artifacts()}
    return sum(artifact.size for artifact in one.manifest.artifacts() if artifact.sha256 not in known)


def show(call: Invocation, name: str) -> Outcome:
    """One backup: its components and files."""
    site = open_site(call)
    one = site.target.find(name)
    known = _manifest(one)
    rows = tuple(
        (
            name,
            record.driver,
            "absent" if record.absent else human_size(record.size),
            record.consistency,
            f"{record.seconds:g} s",
        )
        for name, record in known.components.items()
    )
    files = tuple((artifact.path, str(artifact.size), artifact.sha256) for artifact in known.artifacts())
    return Outcome(
        value=known.model_dump(mode="json"),
        tables=[
            Table(("component", "driver", "size", "consistency", "took"), rows, title=str(one.folder)),
            Table(("file", "bytes", "sha256"), files),
        ],
        lines=[f"Missing: {words}" for words in known.harm],
    )


def diff(call: Invocation, first: str, second: str) -> Outcome:
    """What differs between two backups, file by file."""
    site = open_site(call)
    before, after = (_manifest(site.target.find(name)) for name in (first, second))
    changes = list(_changes(before, after))
    rows = tuple((path, what, sizes) for path, what, sizes in changes)
    return Outcome(
        value=[{"path": path, "change": what, "bytes": sizes} for path, what, sizes in changes],
        tables=[Table(("file", "change", "bytes"), rows, title=f"{before.name} -> {after.name}")],
        lines=[] if changes else ["No file differs."],
        exit_code=0,
    )


def status(call: Invocation) -> Outcome:
    """Whether a good backup of each scheduled kind is young enough: the dead man's switch."""
    site = open_site(call)
    backups, now = site.target.backups(), datetime.now(UTC)
    past = [one for one in backups if not is_future(one.created, now)]
    rows, value = [], []
    for kind in KINDS:
        good = [one for one in past if one.kind == kind and _is_good(site, one)]
        newest = good[0] if good else None
        late = newest is None or now - newest.created > OLDEST[kind]
        needed = kind == "daily" or any(one.kind == kind for one in backups)
        word = ("LATE" if late else "ok") if needed else "none yet"
        rows.append((kind, word, newest.name if newest else "none", _age(now - newest.created) if newest else ""))
        value.append({"kind": kind, "state": word, "newest": newest.name if newest else None})
    late_kinds = [row[0] for row in rows if row[1] == "LATE"]
    return Outcome(
        value=value,
        tables=[Table(("kind", "state", "newest good one", "age"), tuple(rows), title=str(site.target.folder))],
        lines=[
            *future_said(backups, now),
            *(f"Next: invoke backup.create {kind}" for kind in late_kinds[:1]),
        ],
        exit_code=1 if late_kinds else 0,
    )


def _is_good(site: Site, one: Found) -> bool:
    return bool(one.manifest and one.manifest.complete and site.target.record(one).verified)


def _described(site: Site, one: Found, older: Sequence[Found], now: datetime) -> dict[str, object]:
    record = site.target.record(one)
    known = one.manifest
    unread = f"made by {one.foreign}" if known is None and one.foreign else "not hashed"
    state = unread if known is None else ("complete" if known.complete else "DEGRADED")
    return {
        "name": one.name,
        "kind": one.kind,
        "created": one.created.isoformat(),
        "age_seconds": int((now - one.created).total_seconds()),
        "size": one.size,
        "new": new_bytes(one, older),
        "verified": record.verified.isoformat() if record.verified else None,
        "drilled": record.drilled.isoformat() if record.drilled else None,
        "state": state,
        "future": is_future(one.created, now),
        "missing": list(one.manifest.harm) if one.manifest else [],
        "folder": str(one.folder),
    }


def _manifest(one: Found) -> Manifest:
    if one.manifest is not None:
        return one.manifest
    if one.foreign:
        read(one.folder)
    raise Refused(
        "no-manifest",
        f"{one.name} has no manifest that can be read: it is damaged, or the old script made it.",
        looked_at=[str(one.folder)],
        next_command=f"invoke backup.verify {one.name}",
    )


def _changes(before: Manifest, after: Manifest) -> Iterator[tuple[str, str, str]]:
    old, new = (_by_path(manifest) for manifest in (before, after))
    for path in sorted(old.keys() | new.keys()):
        first, second = old.get(path), new.get(path)
        if first is None and second is not None:
            yield path, "added", f"+{second.size}"
        elif second is None and first is not None:
            yield path, "removed", f"-{first.size}"
        elif first and second and first.sha256 != second.sha256:
            yield path, "changed", f"{second.size - first.size:+d}"


def _by_path(manifest: Manifest) -> dict[str, Artifact]:
    return {artifact.path: artifact for record in manifest.components.values() for artifact in record.artifacts}


def _ago(moment: datetime | None, now: datetime) -> str:
    return f"{_age(now - moment)} ago" if moment else "never"


def _age(age: timedelta) -> str:
    seconds = int(age.total_seconds())
    if seconds < 0:
        return "in the future"
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size or (unit == "min" and seconds >= size):
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
