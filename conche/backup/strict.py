"""Reads archives by our own strict rules.

The filters of Python's tarfile are no defence: CVE-2025-4517 and its relatives bypassed them, and so did
CVE-2026-11940. Here only files, folders and symbolic links are admitted, each once and none below a link or a file;
links come last, are relative and can only lead inside. Whoever unpacks what is admitted, in this order and without
following links, writes only where he wanted to.

An archive is a stranger's: what is read, kept and unpacked is bounded by what it may hold and by how large it is.
"""

from __future__ import annotations

import hashlib
import math
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tarfile import TarInfo
from typing import IO, NamedTuple, cast

from conche.backup.inflate import BLOCK, Forward, Refuses, inflated, refusing
from conche.backup.within import File

__all__ = ["DEEPEST", "Admitted", "Limits", "Walked", "admitted", "leads_out", "too_long", "walk"]


DEEPEST = 200
LONGEST = 4096

ROOM, ROOM_PER_BYTE = 32 << 20, 16
"""Bytes of memory that names may take, and as many more for each byte of the archive."""

SMALL = 64 << 10
"""Bytes up to which a file is read before its entry is handed out, which is faster."""

KEY = 150
"""Bytes of memory that it takes to know a name again."""

LATEST = 1 << 40
"""Maximum distance of a time from 1970 in seconds; a file system knows less."""

LISTED, FOLDER, LEAF = 1, 2, 4

Admitted = tuple[TarInfo, Iterator[bytes] | None]
"""An entry and, if it is a file, its content, which must be read before the next entry is."""


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


class _Link(NamedTuple):
    target: str
    uid: int
    gid: int
    mtime: float


@dataclass
class Walked:
    """What was found in an archive.

    Attributes:
        lowered: number of entries that lost a bit of their mode, such as set-user-id.
        among_them: the names of some.
        room: bytes of memory that its names may still take.
    """

    members: int = 0
    content: int = 0
    lowered: int = 0
    among_them: list[str] = field(default_factory=list)
    room: int = ROOM
    _seen: dict[bytes, int] = field(default_factory=dict)
    _links: dict[bytes, _Link] = field(default_factory=dict)

    def warnings(self, name: str) -> list[str]:
        """Return a warning about what a component comes back without."""
        if not self.lowered:
            return []
        entries = "entry" if self.lowered == 1 else "entries"
        some = ", ".join(self.among_them) + (" and others" if self.lowered > len(self.among_them) else "")
        lost = "without set-user-id, set-group-id or sticky bit"
        return [f"{name}: {self.lowered} {entries} came back {lost}: {some}; set it by hand where it is wanted"]

    def admit(self, info: TarInfo, limits: Limits) -> None:
        """Admit an entry, and take from its mode what no backup may bring along.

        Raises:
            Refuses: it is none that a backup may have, or there are too many.
        """
        name = os.fsencode(info.name)
        _require_harmless(info, name)
        leaf = not info.isdir()
        self._place(name, leaf=leaf, link=info.issym())
        self.members += 1
        self.content += info.size
        if self.members > limits.members or self.content > limits.content:
            raise Refuses("it holds more than it may")
        if info.issym():
            if not info.linkname or "\0" in info.linkname:
                raise Refuses(f"the link {_shown(info.name)} leads nowhere")
            if not limits.links_out and leads_out(name, os.fsencode(info.linkname)):
                raise Refuses(f"the link {_shown(info.name)} leads outside")
            self._keep(len(name) + len(info.linkname) + 300)
            self._links[name] = _Link(info.linkname, info.uid, info.gid, info.mtime)
            return
        allowed = 0o777 if leaf else 0o3777
        if info.mode & 0o7777 & ~allowed:
            self.lowered += 1
            self.among_them += [_shown(info.name)] if len(self.among_them) < 3 else []
        info.mode &= allowed

    def require(self, limits: Limits) -> None:
        """Refuse an archive that holds less or more than it must."""
        if limits.exact and (self.members, self.content) != (limits.members, limits.content):
            raise Refuses(f"it holds {self.members} entries with {self.content} bytes, which its manifest contradicts")

    def links(self) -> Iterator[TarInfo]:
        """Yield the links that were admitted."""
        for name, link in self._links.items():
            info = TarInfo(os.fsdecode(name))
            info.type, info.mode, info.linkname = tarfile.SYMTYPE, 0o777, link.target
            info.uid, info.gid, info.mtime = link.uid, link.gid, link.mtime
            yield info

    def _place(self, name: bytes, *, leaf: bool, link: bool) -> None:
        key = _key(name)
        known = self._seen.get(key, 0)
        if known & LISTED:
            raise Refuses(f"{_shown(name)} occurs twice")
        if leaf and known & FOLDER:
            raise Refuses(f"{_shown(name)} is {'a link' if link else 'a file'}, and there is something below it")
        self._keep(KEY if leaf else KEY + 500 + len(name))
        self._seen[key] = LISTED | (LEAF if leaf else FOLDER)
        while b"/" in name:
            name = name.rpartition(b"/")[0]
            key = _key(name)
            known = self._seen.get(key, 0)
            if known & LEAF:
                raise Refuses(f"there is something below {_shown(name)}, which is a link or a file")
            if known & FOLDER:
                return
            self._keep(KEY)
            self._seen[key] = FOLDER

    def _keep(self, count: int) -> None:
        self.room -= count
        if self.room < 0:
            raise Refuses("its names take more memory than those of an archive of its size can")


def _key(name: bytes) -> bytes:
    """Return a name, or a hash of a long one: a small archive can have many long ones."""
    return name if len(name) <= 32 else hashlib.blake2b(name, digest_size=16).digest()


def _require_harmless(info: TarInfo, name: bytes) -> None:
    said = _shown(info.name)
    if not (info.type in (tarfile.REGTYPE, tarfile.AREGTYPE) or info.isdir() or info.issym()):
        raise Refuses(f"{said} is not a file, folder or symbolic link")
    if info.sparse is not None or "GNU.sparse.map" in info.pax_headers:
        raise Refuses(f"{said} is stored as a sparse file")
    if name.startswith(b"/") or b"\0" in name or any(part in (b"", b".", b"..") for part in name.split(b"/")):
        raise Refuses(f"{said} leads outside the folder")
    if too_long(name) or len(info.linkname) > LONGEST:
        raise Refuses(f"{said[:60]}… is too long a path")
    if info.size < 0 or (info.size and not info.isreg()):
        raise Refuses(f"{said} has an impossible size")
    if not all(0 <= number < (1 << 32) - 1 for number in (info.uid, info.gid)):
        raise Refuses(f"{said} has an impossible owner")
    if not (math.isfinite(info.mtime) and abs(info.mtime) <= LATEST):
        raise Refuses(f"{said} has an impossible time")


def _shown(name: str | bytes) -> str:
    """Return a name as it can be printed."""
    return os.fsdecode(name).encode(errors="backslashreplace").decode()


def walk(file: File, limits: Limits) -> Walked:
    """Read through a tar.gz.

    Raises:
        CheckFailed: as of `admitted`.
    """
    walked = Walked()
    for _ in admitted(file, limits, walked):
        pass
    return walked


def admitted(file: File, limits: Limits, walked: Walked) -> Iterator[Admitted]:
    """Yield every entry of a tar.gz: files and folders in their order, then, if nothing is wrong, the links.

    A leading `./` is removed from names: tar writes it when used by hand.

    Args:
        walked: is filled with what was found.

    Raises:
        CheckFailed: the archive is damaged, has an entry that no backup has, or breaks its limits.
    """
    walked.room = ROOM + ROOM_PER_BYTE * file.seen.st_size
    with inflated(file) as raw:
        stream = Forward(raw)
        # Opened as a file to avoid tarfile's own stream class; it never seeks back.
        with tarfile.open(fileobj=cast("IO[bytes]", stream), mode="r:", errorlevel=2) as archive:
            while info := _next(archive, stream):
                info.name = info.name.removeprefix("./")
                if info.name in ("", ".") and info.isdir():
                    continue
                walked.admit(info, limits)
                if info.isdir():
                    yield info, None
                elif info.isreg():
                    yield info, _content(file.path, stream, info)
            # tarfile takes a broken header in the middle for the end of the archive.
            if stream.has_more_than_zeros(archive.offset):
                raise Refuses("there is something after its end, or one of its headers is broken")
        walked.require(limits)
    for link in walked.links():
        yield link, None


def _next(archive: tarfile.TarFile, stream: Forward) -> TarInfo | None:
    """Return the next entry, for whose headers only so much may be read."""
    stream.bound()
    info = archive.next()
    stream.bound(None)
    archive.members = []  # type: ignore[attr-defined]  # it would keep all of them
    if archive.pax_headers:
        raise Refuses("it has headers for all of its entries")
    return info


def _content(path: Path, stream: Forward, info: TarInfo) -> Iterator[bytes]:
    stream.seek(info.offset_data)
    if info.size <= SMALL:
        block = stream.read(info.size)
        if len(block) < info.size:
            raise Refuses(f"{_shown(info.name)} is cut off")
        return iter((block,) if block else ())
    return _blocks(path, stream, info)


def _blocks(path: Path, stream: Forward, info: TarInfo) -> Iterator[bytes]:
    with refusing(path):
        stream.seek(info.offset_data)
        left = info.size
        while left:
            block = stream.read(min(BLOCK, left))
            if not block:
                raise Refuses(f"{_shown(info.name)} is cut off")
            yield block
            left -= len(block)


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
