"""Which backups an off-site repository has, and which of them retention does not keep; pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from conche.backup.mac import KEYLESS, SNAPSHOT, Keys, Provenance
from conche.backup.target import is_future

__all__ = ["Snapshot", "snapshot_of", "superfluous"]


@dataclass(frozen=True)
class Snapshot:
    """A snapshot of a restic repository that holds a backup.

    Attributes:
        id: restic's id.
        name: the name of the backup.
        kind: daily, weekly or monthly.
        time: when the backup was created.
        complete: nothing is missing from the backup.
        sound: the components that are complete in it; None if an older version sent it without saying so.
        doubt: why it counts for nothing: it is foreign or unproven; empty if it counts.
    """

    id: str
    name: str
    kind: str
    time: datetime
    complete: bool = True
    sound: frozenset[str] | None = None
    doubt: str = ""

    def tags(self, keys: Keys = KEYLESS) -> tuple[str, ...]:
        """Return the tags that restic stores with it; one is a MAC over the others, if there is a key.

        Whoever has the repository's password can give any tags and any time to anything.
        """
        state = "complete" if self.complete else "degraded"
        parts = (f"sound={part}" for part in sorted(self.sound or ()))
        created = f"created={self.time.astimezone(UTC).isoformat()}"
        said = (f"name={self.name}", f"kind={self.kind}", f"state={state}", created, *parts)
        tag = keys.tag(SNAPSHOT, "\0".join(said).encode())
        return (*said, f"mac={tag.decode()}") if tag else said


def snapshot_of(listed: Mapping[str, Any], keys: Keys = KEYLESS) -> Snapshot | None:
    """Parse a snapshot that `restic snapshots --json` lists; None if it holds no backup of ours."""
    words = [tag.split("=", 1) for tag in listed.get("tags") or [] if "=" in tag]
    tags = {key: value for key, value in words if key != "sound"}
    if not {"name", "kind"} <= tags.keys():
        return None
    sound = frozenset(value for key, value in words if key == "sound") if "state" in tags else None
    complete = tags.get("state") != "degraded"
    try:
        # restic's own time is a local one, of which there are two in the night when clocks go back.
        time = datetime.fromisoformat(tags.get("created", listed["time"])).astimezone(UTC)
    except ValueError:
        return None
    found = Snapshot(listed["id"], tags["name"], tags["kind"], time, complete, sound)
    provenance = keys.judge(SNAPSHOT, "\0".join(found.tags()).encode(), tags.get("mac", "").encode())
    return replace(found, doubt=str(provenance)) if keys.exist and provenance is not Provenance.OURS else found


def superfluous(
    there: Sequence[Snapshot], kept: Mapping[str, int], now: datetime | None = None
) -> tuple[Snapshot, ...]:
    """Return the snapshots that retention does not keep.

    These have enough newer complete ones of their kind, and no component's newest sound state. A kind for which the
    retention keeps none is left alone, and so are snapshots from the future and those that are not known to be ours,
    which count for nothing.

    Args:
        there: the snapshots, the newest first.
        kept: how many to keep of each kind.
        now: the present, to tell what is from the future; without it nothing is.
    """
    past = [one for one in there if not one.doubt and (now is None or not is_future(one.time, now))]
    parts = {part for one in past for part in one.sound or ()}
    pinned = {next(one.name for one in past if part in (one.sound or ())) for part in parts}
    newer: Counter[str] = Counter()
    gone = []
    for one in past:
        if 0 < kept.get(one.kind, 0) <= newer[one.kind] and one.name not in pinned:
            gone.append(one)
        newer[one.kind] += one.complete
    return tuple(sorted(gone, key=lambda one: list(kept).index(one.kind)))
