"""A component of a backup that is to be restored: its archives and plain files, each proven while it is read."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from tarfile import TarInfo

from conche.backup import within
from conche.backup.archived import is_archive, limits_of
from conche.backup.drivers.keyring import KEY
from conche.backup.inflate import damaged, unpacked
from conche.backup.manifest import Artifact, ComponentRecord
from conche.backup.site import Site
from conche.backup.strict import Admitted, Limits
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
    """

    site: Site
    folder: Path
    name: str
    record: ComponentRecord
    recovery: bytes | None = None

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
        """Return whether an artifact is a tar.gz of entries."""
        return is_archive(self.record, artifact)

    def limits(self, artifact: Artifact) -> Limits:
        """Return what an archive must hold."""
        return limits_of(self.record, artifact)

    def plain(self, folder: str) -> Iterator[Admitted]:
        """Yield the files and links that are in the backup as they are, and the compressed ones, below a folder.

        They belong to whom stack.yaml belongs to. An age key that is opened is left out.

        Raises:
            CheckFailed: a file is not what the manifest says.
        """
        owner = self.site.root.stat()
        for artifact in self.record.artifacts:
            sealed = self.record.driver == "secrets" and artifact.path.endswith(f"/{KEY}")
            if self.is_archive(artifact) or (sealed and self.recovery):
                continue
            with self.opened(artifact) as file:
                info = self._info(artifact.path, folder)
                info.mode, info.size, info.mtime = artifact.mode & 0o777, artifact.size, file.seen.st_mtime
                info.uid, info.gid = owner.st_uid, owner.st_gid
                if artifact.pieces:
                    info.name, info.size = Path(artifact.path).name.removesuffix(".gz"), artifact.content
                    yield info, unpacked(file, artifact.content)
                else:
                    yield info, _exactly(file, artifact.size)
        for link in self.record.links:
            info = self._info(link.path, folder)
            info.type, info.linkname = tarfile.SYMTYPE, link.target
            yield info, None

    def _info(self, path: str, folder: str) -> TarInfo:
        return TarInfo(os.fspath(Path(folder) / Path(path).relative_to(self.name)))


def _exactly(file: File, size: int) -> Iterator[bytes]:
    for block in file.blocks(size):
        size -= len(block)
        yield block
    if size:
        raise damaged(file.path, "it is cut off")
