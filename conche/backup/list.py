"""invoke backup.list"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from conche.backup.manifest import human_size
from conche.backup.site import Site, open_site
from conche.backup.summary import age_in_words, doubts, new_bytes, state_of
from conche.backup.target import StoredBackup, future_said, is_future
from conche.command import Invocation
from conche.outcome import Outcome, Table

__all__ = ["list_"]

COLUMNS = ("backup", "age", "size", "new", "verified", "drilled", "state")


def list_(call: Invocation) -> Outcome:
    """List every backup, the newest first."""
    site = open_site(call)
    backups = site.target.backups()
    now = datetime.now(UTC)
    value = [_described(site, one, backups[place + 1 :], now) for place, one in enumerate(backups)]
    rows = tuple(
        (
            str(one["name"]),
            age_in_words(now - backups[place].created),
            human_size(float(str(one["size"]))),
            human_size(float(str(one["new"]))),
            _ago(site.target.record(backups[place]).verified, now),
            _ago(site.target.record(backups[place]).drilled, now),
            f"{one['state']}, from the future" if one["future"] else str(one["state"]),
        )
        for place, one in enumerate(value)
    )
    last = [*doubts(backups), *future_said(backups, now)] if backups else ["Next: invoke backup.create daily"]
    return Outcome(value=value, tables=[Table(COLUMNS, rows, title=str(site.target.folder))], lines=last)


def _described(site: Site, one: StoredBackup, older: Sequence[StoredBackup], now: datetime) -> dict[str, object]:
    record = site.target.record(one)
    return {
        "name": one.name,
        "kind": one.kind,
        "created": one.created.isoformat(),
        "age_seconds": int((now - one.created).total_seconds()),
        "size": one.size,
        "new": new_bytes(one, older),
        "verified": record.verified.isoformat() if record.verified else None,
        "drilled": record.drilled.isoformat() if record.drilled else None,
        "state": state_of(one),
        "provenance": str(one.provenance),
        "future": is_future(one.created, now),
        "missing": list(one.manifest.harm) if one.manifest else [],
        "folder": str(one.folder),
    }


def _ago(moment: datetime | None, now: datetime) -> str:
    return f"{age_in_words(now - moment)} ago" if moment else "never"
