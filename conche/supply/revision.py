"""The git revision of the checkout, which identifies the images built from it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from conche.commit import DIRTY, described
from conche.errors import Unreachable
from conche.process import run

__all__ = ["Revision", "revision"]


@dataclass(frozen=True)
class Revision:
    """A git revision.

    Attributes:
        name: abbreviated commit, with `-dirty` where the tree differs from it; `unknown` without git.
        version: what `git describe` says: the nearest tag, or else the same as name.
        created: time of the commit, RFC 3339 in UTC, so that the same tree gives the same image.
        epoch: the same time in Unix seconds.
    """

    name: str
    version: str
    created: str
    epoch: int = 0

    @property
    def dirty(self) -> bool:
        """Whether the tree differs from the commit, or the commit is unknown."""
        return self.name.endswith(DIRTY) or self.name == "unknown"

    @property
    def uncommitted(self) -> str:
        """Why it is dirty, in words that begin a sentence."""
        if self.name == "unknown":
            return "Git does not know which commit this is"
        return f"The working tree has uncommitted changes ({self.name})"

    @property
    def tag(self) -> str:
        """The tag of images built from it; empty if the commit is unknown."""
        return "" if self.name == "unknown" else self.name


def revision(root: Path) -> Revision:
    """Return the revision of the checkout at `root`."""
    try:
        answer = run(["git", "-C", str(root), "log", "-1", "--format=%h %ct"], timeout=10)
        version = described(root, "--tags")
    except Unreachable:
        return Revision("unknown", "unknown", _moment(0))
    if not (answer.ok and version):
        return Revision("unknown", "unknown", _moment(0))
    commit, seconds = answer.stdout.raw.split()
    dirty = DIRTY if version.endswith(DIRTY) else ""
    return Revision(commit + dirty, version, _moment(int(seconds)), int(seconds))


def _moment(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
