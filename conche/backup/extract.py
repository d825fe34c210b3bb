"""Reads archives with our own strict rules.

The filters of Python's tarfile are no defence: CVE-2025-4517 and its relatives bypassed them, and so did
CVE-2026-11940. Here only files, folders and symbolic links are allowed; everything is opened relative to a descriptor
of its parent folder, without following links; links are made last, are relative and can only lead inside.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tarfile import TarInfo
from typing import IO, Any, cast

from conche.backup import within
from conche.backup.within import File
from conche.errors import CheckFailed

__all__ = ["DEEPEST", "Limits", "Refuses", "Walked", "extract", "inflated", "leads_out", "too_long", "walk"]

BLOCK = 1 << 20
PAGE = 4096
ZEROS, HOLE = bytes(PAGE), bytes(BLOCK)
DEEPEST = 200
LONGEST = 4096


class Refuses(Exception):
    """An archive is refused; the message says why."""


@dataclass(frozen=True)
class Limits:
    """How much an archive may hold.

    Attributes:
        members: number of entries.
        content: total size of all files, unpacked, in bytes.
        links_out: links may lead anywhere: those of a volume refer to a container's folders, and go back into it.
        exact: the archive must hold exactly as much, as the manifest says.
    """

    members: int = 5_000_000
    content: int = 1 << 44
    exact: bool = False
    links_out: bool = False


@dataclass
class Walked:
    """What was found in an archive."""

    members: int = 0
    content: int = 0
    names: set[bytes] = field(default_factory=set)
    links: dict[bytes, TarInfo] = field(default_factory=dict)


@contextmanager
def inflated(path: Path) -> Iterator[IO[bytes]]:
    """Provide the content of a gzip file as a stream.

    Raises:
        CheckFailed: the file is damaged, or is not gzip.
    """
    from isal import igzip_threaded, isal_zlib

    broken: Any = (EOFError, zlib.error, isal_zlib.error, gzip.BadGzipFile)
    unpack: Any = igzip_threaded.open
    try:
        # A thread of its own: unpacking goes on while the result is being written.
        with within.opened(path.parent, path.name) as file:
            _require_gzip(file)
            with unpack(file, "rb", threads=1, block_size=BLOCK) as stream:
                yield stream
    except broken as error:
        raise damaged(path, str(error)) from error


OTHERS = {b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zXZ": "xz", b"BZh": "bzip2", b"\x04\x22\x4d\x18": "lz4"}
"""Other programs that archives may be compressed with, by their first bytes."""


def _require_gzip(file: File) -> None:
    """Refuse an archive that another program has compressed, and say how to convert it."""
    path, begin = file.path, file.head(6)
    for magic, program in OTHERS.items():
        if begin.startswith(magic):
            name = path.name.split(".tar")[0] + ".tar.gz"
            raise CheckFailed(
                "archive-not-gzip",
                f"{path.name} was compressed by {program}; only gzip can be read here.",
                looked_at=[str(path)],
                next_command=f"{program} -dc '{path}' | gzip > '{path.with_name(f'.{name}')}'\n"
                f"rm '{path}'; mv '{path.with_name(f'.{name}')}' '{path.with_name(name)}'",
            )


def damaged(path: Path, why: str) -> CheckFailed:
    """Return the error for an archive that cannot be used."""
    return CheckFailed(
        "archive-refused",
        f"{path.name} is rejected: {why}.",
        looked_at=[str(path)],
        next_command="invoke backup.list    # another backup",
    )


def walk(path: Path, limits: Limits, visit: Callable[[TarInfo, IO[bytes] | None], None] | None = None) -> Walked:
    """Read through a tar.gz, and call `visit` with every harmless entry except links.

    A leading `./` is removed from names: tar writes it when used by hand.

    Raises:
        CheckFailed: the archive is damaged, has an entry that no backup has, or breaks its limits.
    """
    walked = Walked()
    try:
        with inflated(path) as raw:
            stream = _Forward(raw)
            # Opened as a file to avoid tarfile's own stream class; it never seeks back.
            with tarfile.open(fileobj=cast("IO[bytes]", stream), mode="r:", errorlevel=2) as archive:
                for info in archive:
                    archive.members = []  # type: ignore[attr-defined]  # it would keep all of them
                    info.name = info.name.removeprefix("./")
                    if info.name in ("", ".") and info.isdir():
                        continue
                    _admit(info, walked, limits)
                    if visit is not None and not info.issym():
                        visit(info, archive.extractfile(info) if info.isreg() else None)
                # tarfile takes a broken header in the middle for the end of the archive.
                if stream.has_more_than_zeros(archive.offset):
                    raise Refuses("there is something after its end, or one of its headers is broken")
        for name, info in walked.links.items():
            _admit_link(name, info, walked, limits)
        if limits.exact and (walked.members, walked.content) != (limits.members, limits.content):
            raise Refuses(
                f"it holds {walked.members} entries with {walked.content} bytes, which its manifest contradicts"
            )
    except (Refuses, tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        raise damaged(path, str(error) or type(error).__name__) from error
    return walked


def extract(path: Path, into: Path, limits: Limits) -> Walked:
    """Unpack a tar.gz into an existing folder; if it fails, what was unpacked stays for the caller to remove."""
    descriptor = os.open(into, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        folders = _Folders(descriptor)
        try:
            walked = walk(path, limits, lambda info, content: _unpack(info, content, folders))
            for name, info in walked.links.items():
                above, last = folders.above(name)
                os.symlink(os.fsencode(info.linkname), last, dir_fd=above)
            folders.finish()
        finally:
            folders.close()
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTDIR, errno.ELOOP):
            raise damaged(path, f"two of its entries conflict: {error.strerror}") from error
        raise
    finally:
        os.close(descriptor)
    return walked


class _Forward:
    """A stream that tarfile can use as a file: it can seek back by as much as a header, and forward by reading.

    tarfile's own stream class copies its unused buffer at every header.
    """

    KEPT = 2 * tarfile.BLOCKSIZE

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._block, self._start, self._at = stream, b"", 0, 0

    def tell(self) -> int:
        return self._start + self._at

    def seek(self, place: int) -> int:
        if place < self._start:
            raise Refuses("one of its headers points backwards")
        while place > self._start + len(self._block) and self._more():
            pass
        self._at = min(place - self._start, len(self._block))
        return self.tell()

    def read(self, size: int) -> bytes:
        parts, left = [], size
        while left > 0:
            if self._at == len(self._block) and not self._more():
                break
            part = self._block[self._at : self._at + left]
            parts.append(part)
            self._at += len(part)
            left -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def has_more_than_zeros(self, place: int) -> bool:
        """Return whether anything but zeros follows this position; reads to the end."""
        self.seek(place)
        return any(block.strip(b"\0") for block in iter(lambda: self.read(BLOCK), b""))

    def _more(self) -> bool:
        """Read the next block, keeping the end of the previous one before it; the position does not change."""
        block = self._stream.read(BLOCK)
        kept = self._block[-self.KEPT :]
        self._start += len(self._block) - len(kept)
        self._at += len(kept) - len(self._block)
        self._block = kept + block
        return bool(block)


def _admit(info: TarInfo, walked: Walked, limits: Limits) -> None:
    name = os.fsencode(info.name)
    parts = name.split(b"/")
    shown = info.name.encode(errors="backslashreplace").decode()
    if not (info.type in (tarfile.REGTYPE, tarfile.AREGTYPE) or info.isdir() or info.issym()):
        raise Refuses(f"{shown} is not a file, folder or symbolic link")
    if info.sparse is not None or "GNU.sparse.map" in info.pax_headers:
        raise Refuses(f"{shown} is stored as a sparse file")
    if name.startswith(b"/") or b"\0" in name or any(part in (b"", b".", b"..") for part in parts):
        raise Refuses(f"{shown} leads outside the folder")
    if too_long(name):
        raise Refuses(f"{shown[:60]}… is too long a path")
    if name in walked.names:
        raise Refuses(f"{shown} occurs twice")
    if info.size < 0 or (info.size and not info.isreg()):
        raise Refuses(f"{shown} has an impossible size")
    walked.names.add(name)
    walked.members += 1
    walked.content += info.size
    if walked.members > limits.members or walked.content > limits.content:
        raise Refuses("it holds more than it may")
    if info.issym():
        walked.links[name] = info


def too_long(name: bytes) -> bool:
    """Return whether a path is too long or too deep to be unpacked."""
    return len(name) > LONGEST or name.count(b"/") >= DEEPEST


def leads_out(name: bytes, target: bytes) -> bool:
    """Return whether a link leads outside, or might.

    A link that stays inside goes up only at its beginning, and no further than the top. No entry is below a link, so
    the folder that contains a link is a real one; after its leading `..` a target only goes down, through folders or
    through other links, which stay inside themselves.
    """
    parts = [part for part in target.split(b"/") if part not in (b"", b".")]
    ups = next((place for place, part in enumerate(parts) if part != b".."), len(parts))
    return not target or target.startswith(b"/") or b"\0" in target or b".." in parts[ups:] or ups > name.count(b"/")


def _admit_link(name: bytes, info: TarInfo, walked: Walked, limits: Limits) -> None:
    shown = info.name.encode(errors="backslashreplace").decode()
    if not limits.links_out and leads_out(name, os.fsencode(info.linkname)):
        raise Refuses(f"the link {shown} leads outside")
    if any(above in walked.links for above in _above(name)):
        raise Refuses(f"{shown} is below a link")


def _above(name: bytes) -> Iterator[bytes]:
    while b"/" in name:
        name = name.rpartition(b"/")[0]
        yield name


class _Folders:
    """The folders below a descriptor, opened level by level and never through a link."""

    def __init__(self, top: int) -> None:
        self._top = top
        self._open: list[tuple[bytes, int]] = []
        self._infos: list[tuple[bytes, TarInfo]] = []

    def above(self, name: bytes) -> tuple[int, bytes]:
        """Return the descriptor of the folder that contains `name`, made if missing, and the last part of `name`."""
        *parents, last = name.split(b"/")
        kept = 0
        while kept < min(len(parents), len(self._open)) and self._open[kept][0] == parents[kept]:
            kept += 1
        self._close(kept)
        for part in parents[kept:]:
            below = self._open[-1][1] if self._open else self._top
            with contextlib.suppress(FileExistsError):
                os.mkdir(part, 0o700, dir_fd=below)
            self._open.append((part, os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=below)))
        return (self._open[-1][1] if self._open else self._top), last

    def make(self, name: bytes, info: TarInfo) -> None:
        """Make a folder; `finish` sets its mode and time."""
        above, last = self.above(name)
        try:
            os.mkdir(last, 0o700, dir_fd=above)
        except FileExistsError:
            os.close(os.open(last, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=above))
        self._infos.append((name, info))

    def finish(self) -> None:
        """Set the modes and times of the folders, the deepest first."""
        for name, info in sorted(self._infos, key=lambda pair: pair[0].count(b"/"), reverse=True):
            above, last = self.above(name)
            descriptor = os.open(last, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=above)
            try:
                _dress(descriptor, info)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def close(self) -> None:
        self._close(0)

    def _close(self, kept: int) -> None:
        while len(self._open) > kept:
            os.close(self._open.pop()[1])


def _unpack(info: TarInfo, content: IO[bytes] | None, folders: _Folders) -> None:
    name = os.fsencode(info.name)
    if content is None:
        folders.make(name, info)
        return
    above, last = folders.above(name)
    descriptor = os.open(last, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=above)
    try:
        left = info.size
        while left:
            block = content.read(min(BLOCK, left))
            if not block:
                raise Refuses(f"{info.name} is cut off")
            write_sparsely(descriptor, block)
            left -= len(block)
        os.ftruncate(descriptor, info.size)
        _dress(descriptor, info)
    finally:
        os.close(descriptor)


def write_sparsely(descriptor: int, block: bytes) -> None:
    """Write a block, with holes in place of pages of zeros."""
    if ZEROS not in block:
        _write(descriptor, block)
        return
    if block == HOLE:  # most blocks of a sparse file: one step instead of one for each page
        os.lseek(descriptor, len(block), os.SEEK_CUR)
        return
    begun = 0
    for place in range(0, len(block), PAGE):
        if block[place : place + PAGE] == ZEROS:
            _write(descriptor, block[begun:place])
            os.lseek(descriptor, PAGE, os.SEEK_CUR)
            begun = place + PAGE
    _write(descriptor, block[begun:])


def _write(descriptor: int, block: bytes) -> None:
    view = memoryview(block)
    while view:
        view = view[os.write(descriptor, view) :]


def _dress(descriptor: int, info: TarInfo) -> None:
    """Set the owner (if we are root), the mode without set-user-id bits, and the time."""
    if os.geteuid() == 0:
        os.fchown(descriptor, info.uid, info.gid)
    os.fchmod(descriptor, info.mode & 0o777)
    os.utime(descriptor, (info.mtime, info.mtime))
