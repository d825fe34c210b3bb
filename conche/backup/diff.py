"""invoke backup.diff"""

from __future__ import annotations

from collections.abc import Iterator

from conche.backup.manifest import Artifact, Manifest
from conche.backup.site import open_site
from conche.backup.summary import manifest_of
from conche.command import Invocation
from conche.outcome import Outcome, Table

__all__ = ["diff"]


def diff(call: Invocation, first: str, second: str) -> Outcome:
    """Show what differs between two backups, file by file."""
    site = open_site(call)
    before, after = (manifest_of(site.target.find(name)) for name in (first, second))
    changes = list(_changes(before, after))
    rows = tuple((path, what, sizes) for path, what, sizes in changes)
    return Outcome(
        value=[{"path": path, "change": what, "bytes": sizes} for path, what, sizes in changes],
        tables=[Table(("file", "change", "bytes"), rows, title=f"{before.name} -> {after.name}")],
        lines=[] if changes else ["No file differs."],
        exit_code=0,
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
