"""Writes plain files, for the components whose files are in a backup as they are."""

from __future__ import annotations

import copy
import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tarfile import TarInfo

from conche.backup.archive import Archive, ArchiveWriter, compressing
from conche.backup.entries import ZEROS, Unread
from conche.backup.headers import parts, placed, set_parts, time_ns
from conche.backup.manifest import Artifact
from conche.backup.tree import FILE, INSIDE
from conche.syscalls import begin_writeback

__all__ = ["FolderWriter", "Stored", "folder_writer"]

NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)
"""Errors of symlink(2) on a file system without links, such as vfat."""

NOT_AS_A_FILE = (*NO_LINKS, errno.EEXIST, errno.ENOTDIR, errno.EINVAL, errno.ENAMETOOLONG, errno.EILSEQ)
"""Errors of making what the target cannot have under that name: of vfat also for a colon, or a question mark."""


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


class _Content:
    """The blocks of a file, and whether any of it was asked for."""

    def __init__(self, blocks: Iterable[bytes]) -> None:
        self._blocks, self.begun = blocks, False

    def __iter__(self) -> Iterator[bytes]:
        self.begun = True
        yield from self._blocks


class FolderWriter:
    """Writes entries as files below a folder.

    Args:
        tree: is given what they have beside their content, and whole what the file system or a manifest cannot have.
        earlier: puts what an earlier backup has under a name into a new place, if it can.
    """

    def __init__(
        self,
        folder: Path,
        tree: ArchiveWriter | None = None,
        earlier: Callable[[str, Path], Artifact | None] | None = None,
    ) -> None:
        self._folder, self._tree, self._earlier = folder, tree, earlier
        self.stored: list[Stored] = []
        self._files: dict[str, Stored] = {}

    def add(self, info: TarInfo, blocks: Iterable[bytes] = ()) -> None:
        """Write one entry."""
        if self._tree is not None and not _is_text(info.name):
            self._keep(info, blocks)
            return
        if info.isdir():
            self._keep(info)
            return
        path, content = self._folder / info.name, _Content(blocks)
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if info.issym():
                path.symlink_to(info.linkname)
                self.stored.append(Stored(info.name, 0, "", 0o777, info.linkname))
            elif info.islnk():
                self._add_second_name(info, path)
            elif isinstance(blocks, Unread) and self._add_unread(info, path, blocks):
                pass
            else:
                self._add_file(info, path, content)
        except OSError as error:
            # What was read of it cannot be read again.
            if self._tree is None or content.begun or error.errno not in NOT_AS_A_FILE:
                raise
            self._keep(info, blocks)
        else:
            self._keep(info)

    def _keep(self, info: TarInfo, blocks: Iterable[bytes] | None = None) -> None:
        """Add an entry to the tree; a file without content if that is stored already."""
        if self._tree is None:
            return
        kept = copy.copy(info)
        kept.name = INSIDE if info.name == "." else f"{INSIDE}/{info.name}"
        if info.islnk():
            kept.linkname = f"{INSIDE}/{info.linkname}"
        if blocks is None and info.isreg():
            kept.size = 0
            set_parts(kept, None)
        self._tree.add(kept, blocks or ())

    def _add_unread(self, info: TarInfo, path: Path, blocks: Unread) -> bool:
        """Add a file as what an earlier backup has of it; return whether that could be done."""
        there = self._earlier(info.name, path) if self._earlier else None
        if there is None or there.size != info.size:
            return False
        blocks.keep()
        self._stored(Stored(info.name, there.size, there.sha256, info.mode & 0o777))
        return True

    def _add_file(self, info: TarInfo, path: Path, blocks: Iterable[bytes]) -> None:
        try:
            digest = _written(path, info, blocks)
        except FileExistsError:
            raise  # the existing file belongs to another entry
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        moment = time_ns(info)
        os.utime(path, ns=(moment, moment))
        self._stored(Stored(info.name, info.size, digest, info.mode & 0o777))

    def _add_second_name(self, info: TarInfo, path: Path) -> None:
        """Give a file that is written already another name; a copy, where the file system has no hard links."""
        first = self._files.get(info.linkname)
        if first is None:  # it is only in the tree
            raise FileExistsError(errno.EEXIST, "is not stored as a file", info.linkname)
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
        """Return a position in the tree: a file that fails half-way is removed at once."""
        return self._tree.mark() if self._tree else None

    def back(self, mark: object) -> None:
        """Discard what was added to the tree since."""
        if self._tree:
            self._tree.back(mark)


@contextmanager
def folder_writer(
    folder: Path, earlier: Callable[[str, Path], Artifact | None] | None = None
) -> Iterator[tuple[FolderWriter, Callable[[], Archive | None]]]:
    """Provide a writer with a tree, and what finishes that; it returns nothing if there was nothing to be written."""
    with compressing(folder / FILE) as compressor:
        tree = ArchiveWriter(compressor)
        writer = FolderWriter(folder, tree, earlier)

        def finish() -> Archive | None:
            made = tree.finish()
            if not writer.stored and made.members <= 1:  # the folder itself, empty
                (folder / FILE).unlink()
                return None
            return made

        yield writer, finish


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


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
