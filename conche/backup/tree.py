"""The archive beside the plain files of a component, of what they have beside their content: owners, modes, times."""

from __future__ import annotations

from conche.backup.manifest import Artifact, ComponentRecord

__all__ = ["FACT", "FILE", "INSIDE", "data_of", "tree_of"]

FILE = ".conche-tree.tar.gz"

FACT = "tree"
"""The fact of a component that names the archive."""

INSIDE = "tree"
"""The folder in the archive that all of it is in: unpacked by hand, it must not empty the files."""


def tree_of(record: ComponentRecord) -> Artifact | None:
    """Return the archive; None for a component without plain files, or a backup made without it."""
    file = record.facts.get(FACT)
    return next((one for one in record.artifacts if file and one.path.split("/")[1:] == [file]), None)


def data_of(record: ComponentRecord) -> tuple[Artifact, ...]:
    """Return the artifacts of a component without that archive."""
    tree = tree_of(record)
    return tuple(one for one in record.artifacts if one is not tree)
