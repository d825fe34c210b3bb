"""Writes plain files, for the components whose files are in a backup as they are."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from tarfile import TarInfo

from conche.backup.entries import ZEROS
from conche.backup.headers import parts, placed
from conche.syscalls import begin_writeback

__all__ = ["FolderWriter", "Stored"]


@dataclass(frozen=True)
class Stored:
    """A file or link that was written.

    Attributes:
        name: relative to the component.
        link: where a symbolic link leads; empty for a file.
        mode: of the source.
    """

    name: str
    size: int
    sha256: str
    mode: int
    link: str = ""


class FolderWriter:
    """Writes entries as files below a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.stored: list[Stored] = []
        self._files: dict[str, Stored] = {}
        self._owners: Counter[str] = Counter()

    @property
    def owner(self) -> str:
        """The owner of most of the files, as numeric user:group."""
        return self._owners.most_common(1)[0][0] if self._owners else "0:0"

    def add(self, info: TarInfo, blocks: Iterable[bytes] = ()) -> None:
        """Write one entry; empty folders are not kept, since a backup lists files."""
        if info.isdir():
            return
        path = self._folder / info.name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if info.issym():
            path.symlink_to(info.linkname)
            self.stored.append(Stored(info.name, 0, "", 0o777, info.linkname))
            return
        if info.islnk():
            self._add_second_name(info, path)
            return
        try:
            digest = _written(path, info, blocks)
        except FileExistsError:
            raise  # the existing file belongs to another entry
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        os.utime(path, (info.mtime, info.mtime))
        self._owners[f"{info.uid}:{info.gid}"] += 1
        self._stored(Stored(info.name, info.size, digest, info.mode & 0o777))

    def _add_second_name(self, info: TarInfo, path: Path) -> None:
        """Give a file that is written already another name; a copy, where the file system has no hard links."""
        first = self._files.get(info.linkname)
        if first is None:
            raise FileExistsError(info.linkname)  # it clashed with another name itself
        source = self._folder / first.name
        try:
            os.link(source, path)
        except FileExistsError:
            raise
        except OSError:
            shutil.copyfile(source, path)
            shutil.copystat(source, path)
        self._stored(replace(first, name=info.name))

    def _stored(self, one: Stored) -> None:
        self.stored.append(one)
        self._files[one.name] = one

    def mark(self) -> object:
        """Return nothing: a file that fails half-way is removed at once."""
        return None

    def back(self, mark: object) -> None:
        """Do nothing: nothing half-written is left."""


def _written(path: Path, info: TarInfo, blocks: Iterable[bytes]) -> str:
    """Write a new file (0600), with the holes of a sparse one; return the sha256 of all that is read of it."""
    digest, end = hashlib.sha256(), 0
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        for place, block in placed(info, blocks):
            _hash_hole(digest, place - end)
            digest.update(block)
            stream.seek(place)
            stream.write(block)
            end = place + len(block)
        if parts(info) is not None:
            _hash_hole(digest, info.size - end)
            stream.truncate(info.size)
        stream.flush()
        begin_writeback(stream.fileno())
    return digest.hexdigest()


def _hash_hole(digest: hashlib._Hash, length: int) -> None:
    for begun in range(0, length, len(ZEROS)):
        digest.update(ZEROS[: length - begun])
