"""What lists and pages say about a backup."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from conche.backup.manifest import Manifest, read
from conche.backup.target import Found
from conche.errors import Refused

__all__ = ["age_in_words", "manifest_of", "new_bytes"]


def new_bytes(one: Found, older: Sequence[Found]) -> int:
    """Return the number of bytes that no older backup has: the cost of keeping this one."""
    if one.manifest is None:
        return one.size
    known = {artifact.sha256 for other in older if other.manifest for artifact in other.manifest.artifacts()}
    return sum(artifact.size for artifact in one.manifest.artifacts() if artifact.sha256 not in known)


def manifest_of(one: Found) -> Manifest:
    """Return a backup's manifest.

    Raises:
        Refused: it has none that can be read.
    """
    if one.manifest is not None:
        return one.manifest
    if one.foreign:
        read(one.folder)
    raise Refused(
        "no-manifest",
        f"{one.name} has no readable manifest: it is damaged, or the old script made it.",
        looked_at=[str(one.folder)],
        next_command=f"invoke backup.verify {one.name}",
    )


def age_in_words(age: timedelta) -> str:
    """Format an age in the largest unit of which there are at least two, such as `3 d`."""
    seconds = int(age.total_seconds())
    if seconds < 0:
        return "in the future"
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size or (unit == "min" and seconds >= size):
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
