"""invoke backup.status"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from conche.backup import missed
from conche.backup.site import Site, open_site
from conche.backup.summary import age_in_words, doubts
from conche.backup.target import StoredBackup, future_said, is_future
from conche.command import Invocation
from conche.outcome import Outcome, Table
from conche.stack import KINDS, BackupKind

__all__ = ["OLDEST", "status"]

OLDEST: dict[BackupKind, timedelta] = {
    "daily": timedelta(hours=26),
    "weekly": timedelta(days=8),
    "monthly": timedelta(days=32),
}
"""The age from which a kind's newest verified backup is late: its interval and some slack."""


def status(call: Invocation) -> Outcome:
    """Show whether each kind has a good backup that is recent enough: the dead man's switch."""
    site = open_site(call)
    backups, now = site.target.backups(), datetime.now(UTC)
    past = [one for one in backups if one.trusted and not is_future(one.created, now)]
    rows, value = [], []
    for kind in KINDS:
        good = [one for one in past if one.kind == kind and _is_good(site, one)]
        newest = good[0] if good else None
        late = newest is None or now - newest.created > OLDEST[kind]
        needed = kind == "daily" or any(one.kind == kind and one.trusted for one in backups)
        word = ("LATE" if late else "ok") if needed else "none yet"
        rows.append(
            (kind, word, newest.name if newest else "none", age_in_words(now - newest.created) if newest else "")
        )
        value.append({"kind": kind, "state": word, "newest": newest.name if newest else None})
    made_up, warnings = missed.said(site, now)
    late_kinds = [row[0] for row in rows if row[1] == "LATE"]
    return Outcome(
        value=value,
        tables=[Table(("kind", "state", "newest good one", "age"), tuple(rows), title=str(site.target.folder))],
        lines=[
            *doubts(backups),
            *future_said(backups, now),
            *made_up,
            *(f"Next: invoke backup.create {kind}" for kind in late_kinds[:1]),
        ],
        warnings=warnings,
        exit_code=1 if late_kinds else 0,
    )


def _is_good(site: Site, one: StoredBackup) -> bool:
    return bool(one.manifest and one.manifest.complete and site.target.record(one).verified)
