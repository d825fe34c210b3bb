"""What a manifest says of an archive, as the strict reader takes it."""

from __future__ import annotations

from conche.backup.drivers import FOREIGN
from conche.backup.manifest import Artifact, ComponentRecord
from conche.backup.strict import Limits
from conche.backup.tree import INSIDE, tree_of

__all__ = ["is_archive", "limits_of"]


def is_archive(record: ComponentRecord, artifact: Artifact) -> bool:
    """Return whether an artifact is a tar.gz of entries: one without any has no members either."""
    return bool(artifact.members) or (bool(artifact.pieces) and record.driver in ("archive", *FOREIGN))


def limits_of(record: ComponentRecord, artifact: Artifact) -> Limits:
    """Return what an archive must hold."""
    if artifact == tree_of(record):
        return Limits(artifact.members, artifact.content, exact=True, links_out=True, top=True, inside=INSIDE)
    foreign = record.driver in FOREIGN
    return Limits(artifact.members, artifact.content, exact=True, links_out=foreign, top=foreign)
