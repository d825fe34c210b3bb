"""A component of a backup that is to be restored: its archives and plain files, each proven while it is read."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tarfile import TarInfo

from conche.backup import within
from conche.backup.archived import is_archive, limits_of
from conche.backup.drivers.keyring import KEY
from conche.backup.headers import set_parts
from conche.backup.inflate import damaged, unpacked
from conche.backup.losses import Losses, shown
from conche.backup.manifest import Artifact, ComponentRecord
from conche.backup.site import Site
from conche.backup.strict import Admitted, Limits, Walked, admitted
from conche.backup.tree import data_of, tree_of
from conche.backup.within import File

__all__ = ["Source"]

LARGEST = 1 << 20
"""Maximum bytes of a file that is read as a whole, such as an age key."""


@dataclass(frozen=True)
class Source:
    """A component of a backup that is to be restored.

    Attributes:
        folder: the backup's folder.
        recovery: the text of the key that opens the age key in it.
        trusted: the backup counts as the stack's own, so its files may have the rights that the component declares.
    """

    site: Site
    folder: Path
    name: str
    record: ComponentRecord
    recovery: bytes | None = None
    trusted: bool = False

    def opened(self, artifact: Artifact) -> AbstractContextManager[File]:
        """Open an artifact's file; at the end of the block, what was read must have been what the manifest says.

        Raises:
            CheckFailed: it cannot be read, or is something else.
        """
        return within.proven(self.folder, artifact.path, artifact.size, artifact.sha256)

    def read(self, artifact: Artifact) -> bytes:
        """Return what a small file holds."""
        with self.opened(artifact) as file:
            return b"".join(file.blocks(LARGEST))

    def is_archive(self, artifact: Artifact) -> bool:
        """Return whether an artifact is a tar.gz of the component's own entries."""
        return is_archive(self.record, artifact) and artifact != tree_of(self.record)

    def limits(self, artifact: Artifact) -> Limits:
        """Return what an archive must hold."""
        # stack.yaml may declare it no longer, or under another name.
        declared = self.site.section.components.get(self.name) if self.trusted else None
        privileged = declared is not None and declared.privileged
        return replace(limits_of(self.record, artifact), privileged=privileged)

    def plain(self, folder: str, losses: Losses, *, top: bool = False) -> Iterator[Admitted]:
        """Yield the files, folders and links that are in the backup as they are, and compressed ones, below a folder.

        Args:
            losses: is told what is not brought along of what they had beside their content.
            top: what they are unpacked into is a volume, which gets what its own folder had, too.

        Raises:
            CheckFailed: a file is not what the manifest says.
        """
        tree = tree_of(self.record)
        entries = self._described(tree, losses) if tree else self._undescribed()
        for info, blocks in entries:
            if info.name == "." and not (folder or top):
                continue
            info.name = _below(folder, info.name)
            if info.islnk():
                info.linkname = _below(folder, info.linkname)
            yield info, blocks

    @cached_property
    def described(self) -> list[TarInfo]:
        """The entries of plain files, folders and links with what they have beside their content.

        Raises:
            CheckFailed: the archive that says so is not what the manifest says.
        """
        tree = tree_of(self.record)
        if tree is None:
            return []
        with self.opened(tree) as file:
            return [info for info, _ in admitted(file, self.limits(tree), Walked())]

    def _described(self, tree: Artifact, losses: Losses) -> Iterator[Admitted]:
        left = {one.path.partition("/")[2]: one for one in data_of(self.record)}
        walked = Walked()
        with self.opened(tree) as file:
            for info, blocks in admitted(file, self.limits(tree), walked):
                stored = left.pop(info.name, None)
                if stored is None or info.islnk():
                    yield info, blocks
                    continue
                if not info.isreg():
                    raise damaged(file.path, f"{shown(info.name)} is no file there")
                with self.opened(stored) as content:
                    info.size, found = stored.size, content.parts()
                    set_parts(info, found)
                    yield info, _exactly(content, stored.size) if found is None else _without_holes(content, found)
        if left:
            raise damaged(file.path, f"{shown(min(left))} is not in it")
        losses.update(walked.losses)

    def _undescribed(self) -> Iterator[Admitted]:
        """Yield them of a backup that has only their content; they belong to whom stack.yaml belongs to.

        An age key that is opened is left out.
        """
        owner = self.site.root.stat()
        for artifact in self.record.artifacts:
            sealed = self.record.driver == "secrets" and artifact.path.endswith(f"/{KEY}")
            if self.is_archive(artifact) or (sealed and self.recovery):
                continue
            with self.opened(artifact) as file:
                info = self._info(artifact.path)
                info.mode, info.size, info.mtime = artifact.mode & 0o777, artifact.size, file.seen.st_mtime
                info.uid, info.gid = owner.st_uid, owner.st_gid
                if artifact.pieces:
                    info.name, info.size = Path(artifact.path).name.removesuffix(".gz"), artifact.content
                    yield info, unpacked(file, artifact.content)
                else:
                    yield info, _exactly(file, artifact.size)
        for link in self.record.links:
            info = self._info(link.path)
            info.type, info.linkname = tarfile.SYMTYPE, link.target
            info.uid, info.gid = owner.st_uid, owner.st_gid
            yield info, None

    def _info(self, path: str) -> TarInfo:
        return TarInfo(path.partition("/")[2])


def _below(folder: str, name: str) -> str:
    return os.path.normpath(f"{folder}/{name}") if folder else name


def _without_holes(file: File, found: Sequence[tuple[int, int]]) -> Iterator[bytes]:
    """Yield the content of a sparse file; its holes are read as well, since all of it is hashed."""
    end = 0
    for place, length in found:
        for _ in _exactly(file, place - end):
            pass
        yield from _exactly(file, length)
        end = place + length


def _exactly(file: File, size: int) -> Iterator[bytes]:
    for block in file.blocks(size):
        size -= len(block)
        yield block
    if size:
        raise damaged(file.path, "it is cut off")
