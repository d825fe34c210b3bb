"""What lists and pages say about a backup."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from conche.backup.mac import Provenance
from conche.backup.manifest import Manifest
from conche.backup.target import StoredBackup
from conche.errors import Refused
from conche.vault.values import BACKUP_KEYS

__all__ = ["age_in_words", "doubts", "manifest_of", "new_bytes", "state_of"]


def new_bytes(one: StoredBackup, older: Sequence[StoredBackup]) -> int:
    """Return the number of bytes that no older backup has: the cost of keeping this one."""
    if one.manifest is None:
        return one.size
    known = {artifact.sha256 for other in older if other.manifest for artifact in other.manifest.artifacts()}
    return sum(artifact.size for artifact in one.manifest.artifacts() if artifact.sha256 not in known)


def manifest_of(one: StoredBackup) -> Manifest:
    """Return a backup's manifest.

    Raises:
        Refused: it has none that can be read.
    """
    if one.manifest is not None:
        return one.manifest
    if one.read.error is not None and one.read.error.code in ("manifest-schema-unknown", "manifest-too-large"):
        raise one.read.error
    raise Refused(
        "no-manifest",
        f"{one.name} has no readable manifest: it is damaged, or the old script made it.",
        looked_at=[str(one.folder)],
        next_command=f"invoke backup.verify {one.name}",
    )


def state_of(one: StoredBackup) -> str:
    """Return whether a backup is complete, and what is not known of it."""
    known = one.manifest
    unread = f"made by {one.made_by}" if one.made_by else "not hashed"
    state = unread if known is None else ("complete" if known.complete else "DEGRADED")
    return state if one.trusted else f"{state}, {one.provenance}"


def doubts(backups: Sequence[StoredBackup]) -> list[str]:
    """Return what to say about backups that are not known to be ours, and so count for nothing."""
    foreign = [one.name for one in backups if one.provenance is Provenance.FOREIGN]
    unproven = [one for one in backups if not one.trusted and one.provenance is Provenance.UNPROVEN]
    said = [f"{name} is foreign: another stack's, or changed since. Who can write to the target?" for name in foreign]
    if backups and not backups[0].keys().exist and any(one.read.has_mac for one in backups):
        said.append(
            f"Some have a MAC, and this stack has no key for it. Was {BACKUP_KEYS} lost? git log -p -- secrets.enc.yaml"
        )
    if not unproven:
        return said
    counted = "1 backup is unproven and counts" if len(unproven) == 1 else f"{len(unproven)} are unproven and count"
    if unknown := unproven[0].keys().unknown:
        return [*said, f"{counted} for nothing: the keys cannot be read here: {unknown}"]
    return [*said, f"{counted} for nothing. If you know what made them: invoke backup.adopt --all"]


def age_in_words(age: timedelta) -> str:
    """Format an age in the largest unit of which there are at least two, such as `3 d`."""
    seconds = int(age.total_seconds())
    if seconds < 0:
        return "in the future"
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size or (unit == "min" and seconds >= size):
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
