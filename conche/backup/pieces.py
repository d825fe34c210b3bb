"""Takes what is unchanged of an archive over from an earlier one, as the gzip members that it has there.

The whole of the earlier archive is hashed meanwhile, and must be what the manifest says: a bit that has rotted in it
would otherwise get into the new archive, and into a digest that fits it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from conche.backup.archive import Group
from conche.backup.entries import Entry
from conche.backup.manifest import Artifact
from conche.backup.sight import told_of
from conche.backup.within import File

__all__ = ["Pieces", "TakenOver"]

Ahead = deque[tuple[Entry, bytes]]
"""Entries that come next, each with what is seen of its source."""


@dataclass(frozen=True)
class TakenOver:
    """Entries that are taken over together; their gzip members are read from the earlier archive meanwhile."""

    group: Group
    pieces: Iterator[bytes]


@dataclass
class Pieces:
    """An archive of an earlier backup.

    Attributes:
        file: it, of which nothing was read yet.
        artifact: what the manifest says of it.
        groups: its entries, by the gzip members that they are in.
        taken: whether some of it was taken over.
    """

    file: File
    artifact: Artifact
    groups: Sequence[Group]
    taken: bool = False

    def over(self, entries: Iterable[Entry]) -> Iterator[Entry | TakenOver]:
        """Yield entries, and those as runs that are all of what a group of the earlier archive holds, unchanged."""
        sizes, places = [int(size) for size in self.artifact.pieces.split()], self._places()
        coming, ahead, done = iter(entries), Ahead(), 0
        while _fill(ahead, coming, 1):
            group, first = places.get(ahead[0][1], (None, 0))
            if group is None or first < done or not _come(group, ahead, coming):
                yield ahead.popleft()[0]
                continue
            for _ in group.seen:
                ahead.popleft()
            end, self.taken = first + group.pieces, True
            for _ in self.file.blocks(sum(sizes[done:first])):
                pass
            yield TakenOver(group, map(self.file.read, sizes[first:end]))
            done = end

    def proven(self) -> bool:
        """Return whether the earlier archive is what the manifest says, if some of it was taken over."""
        return not self.taken or self.file.is_as(self.artifact.size, self.artifact.sha256)

    def _places(self) -> dict[bytes, tuple[Group, int]]:
        """Return the groups that can be taken over, and the number of pieces before each, by what is first in them."""
        found, first = {}, 0
        for group in self.groups:
            if group.pieces and all(group.seen):
                found[group.seen[0]] = group, first
            first += group.pieces
        return found


def _come(group: Group, ahead: Ahead, coming: Iterator[Entry]) -> bool:
    """Return whether the entries of a group are those that come next."""
    _fill(ahead, coming, len(group.seen))
    same = all(seen == what for seen, (_, what) in zip(group.seen, ahead, strict=False))
    return same and len(ahead) >= len(group.seen)


def _fill(ahead: Ahead, coming: Iterator[Entry], count: int) -> bool:
    """Look at entries until there are so many ahead; return whether there are."""
    while len(ahead) < count:
        entry = next(coming, None)
        if entry is None:
            return False
        ahead.append((entry, _seen(entry)))
    return True


def _seen(entry: Entry) -> bytes:
    """Return what is seen of an entry's source; nothing if what is stored of it depends on other entries."""
    if entry.look is None:
        return entry.seen
    try:
        seen = entry.look()
    except OSError:  # gone since the folder was listed
        return b""
    return told_of(entry.info.name, seen) if seen.st_nlink == 1 else b""
