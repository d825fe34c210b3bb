"""invoke backup.show"""

from __future__ import annotations

from conche.backup.manifest import human_size
from conche.backup.site import open_site
from conche.backup.summary import doubts, manifest_of
from conche.command import Invocation
from conche.outcome import Outcome, Table

__all__ = ["show"]


def show(call: Invocation, name: str) -> Outcome:
    """Show one backup: its components and files."""
    site = open_site(call)
    one = site.target.find(name)
    known = manifest_of(one)
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
        lines=[*doubts([one]), *(f"Missing: {words}" for words in known.harm)],
    )
