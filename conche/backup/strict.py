"""Reads archives by our own strict rules.

The filters of Python's tarfile are no defence: CVE-2025-4517 and its relatives bypassed them, and so did
CVE-2026-11940. Here only files, folders and links are admitted, each once and none below a link or a file; a hard link
is another name of a file that came before it; symbolic links come last, are relative and can only lead inside. Whoever
unpacks what is admitted, in this order and without following links, writes only where he wanted to.

An archive is a stranger's: what is read, kept and unpacked is bounded by what it may hold and by how large it is.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tarfile import TarInfo
from typing import NamedTuple

from conche.backup.headers import SECOND, parts, set_time, stored, time_ns
from conche.backup.inflate import Forward, Refuses, inflated, refusing
from conche.backup.losses import Losses, shown
from conche.backup.members import Members
from conche.backup.within import File
from conche.backup.xattrs import admit_attributes

__all__ = [
    "DEEPEST",
    "LARGEST",
    "LATEST",
    "TOP",
    "Admitted",
    "Limits",
    "Walked",
    "admitted",
    "leads_out",
    "too_long",
    "walk",
]


DEEPEST = 200
LONGEST = 4096

ROOM, ROOM_PER_BYTE = 29 << 20, 33
"""Bytes of memory that names may take, and as many more for each byte of the archive.

A folder takes some 700 and may be only twenty bytes of the archive, if there are many that are alike.
"""

SMALL = 64 << 10
"""Bytes up to which a file is read before its entry is handed out, which is faster."""

KEY = 150
"""Bytes of memory that it takes to know a name again."""

LATEST = 1 << 40
"""Maximum distance of a time from 1970 in seconds; a file system knows less."""

LARGEST = 1 << 60
"""Maximum size of a sparse file in bytes, most of which are holes; a file system may allow less."""

TOP = b"."
"""The name of the entry that says what the folder is like that an archive is unpacked into."""

LISTED, FOLDER, LEAF, FILE = 1, 2, 4, 8

Admitted = tuple[TarInfo, Iterator[bytes] | None]
"""An entry and, if it is a file, its content, which must be read before the next entry is."""


@dataclass(frozen=True)
class Limits:
    """How much an archive may hold.

    Attributes:
        members: number of entries.
        content: total size of all files, unpacked and without holes, in bytes.
        links_out: links may lead anywhere: those of a volume refer to a container's folders, and go back into it.
        exact: the archive must hold exactly as much, as the manifest says.
        top: the archive may say what the folder is like that it is unpacked into.
        inside: a folder that all of it is in, which is removed from the names.
        privileged: files may have set-user-id and set-group-id bits and capabilities, as the component declares.
    """

    members: int = 5_000_000
    content: int = 1 << 44
    exact: bool = False
    links_out: bool = False
    top: bool = False
    inside: str = ""
    privileged: bool = False


class _Link(NamedTuple):
    target: str
    uid: int
    gid: int
    moment: int


@dataclass
class Walked:
    """What was found in an archive.

    Attributes:
        losses: what entries come back without, such as set-user-id.
        room: bytes of memory that its names may still take.
    """

    members: int = 0
    content: int = 0
    losses: Losses = field(default_factory=Losses)
    room: int = ROOM
    _seen: dict[bytes, int] = field(default_factory=dict)
    _links: dict[bytes, _Link] = field(default_factory=dict)

    def admit(self, info: TarInfo, limits: Limits) -> None:
        """Admit an entry, and take from it what no backup may bring along.

        Raises:
            Refuses: it is none that a backup may have, or there are too many.
        """
        name = os.fsencode(info.name)
        _require_harmless(info, name, top=limits.top)
        self._place(name, _kind(info))
        self.members += 1
        self.content += stored(info)
        if self.members > limits.members or self.content > limits.content:
            raise Refuses("it holds more than it may")
        if info.issym():
            self._admit_link(info, name, limits)
        elif info.islnk():
            self._require_file(info, os.fsencode(info.linkname))
        else:
            allowed = 0o3777 if info.isdir() else 0o6777 if limits.privileged else 0o777
            if info.mode & 0o7777 & ~allowed:
                self.losses.add("set-user-id, set-group-id or sticky bit", name)
            info.mode &= allowed
            for lost in admit_attributes(info, privileged=limits.privileged):
                self.losses.add(lost, name)

    def _admit_link(self, info: TarInfo, name: bytes, limits: Limits) -> None:
        if not info.linkname or "\0" in info.linkname:
            raise Refuses(f"the link {shown(info.name)} leads nowhere")
        if not limits.links_out and leads_out(name, os.fsencode(info.linkname)):
            raise Refuses(f"the link {shown(info.name)} leads outside")
        self._keep(len(name) + len(info.linkname) + 300)
        self._links[name] = _Link(info.linkname, info.uid, info.gid, time_ns(info))

    def _require_file(self, info: TarInfo, target: bytes) -> None:
        """Refuse a hard link to anything but a file of this archive: it would reach what is not ours."""
        if not self._seen.get(_key(target), 0) & FILE:
            raise Refuses(f"the hard link {shown(info.name)} leads to no file before it")

    def require(self, limits: Limits) -> None:
        """Refuse an archive that holds less or more than it must."""
        if limits.exact and (self.members, self.content) != (limits.members, limits.content):
            raise Refuses(f"it holds {self.members} entries with {self.content} bytes, which its manifest contradicts")

    def links(self) -> Iterator[TarInfo]:
        """Yield the links that were admitted."""
        for name, link in self._links.items():
            info = TarInfo(os.fsdecode(name))
            info.type, info.mode, info.linkname = tarfile.SYMTYPE, 0o777, link.target
            info.uid, info.gid = link.uid, link.gid
            set_time(info, link.moment)
            yield info

    def _place(self, name: bytes, kind: int) -> None:
        key, leaf = _key(name), kind & LEAF
        known = self._seen.get(key, 0)
        if known & LISTED:
            raise Refuses(f"{shown(name)} occurs twice")
        if leaf and known & FOLDER:
            raise Refuses(f"{shown(name)} is {'a file' if kind & FILE else 'a link'}, and there is something below it")
        self._keep(KEY if leaf else KEY + 500 + len(name))
        self._seen[key] = LISTED | kind
        while b"/" in name:
            name = name.rpartition(b"/")[0]
            key = _key(name)
            known = self._seen.get(key, 0)
            if known & LEAF:
                raise Refuses(f"there is something below {shown(name)}, which is a link or a file")
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


def _kind(info: TarInfo) -> int:
    if info.isdir():
        return FOLDER
    return LEAF if info.issym() or info.islnk() else LEAF | FILE


def _require_harmless(info: TarInfo, name: bytes, *, top: bool) -> None:
    said = shown(info.name)
    if not (info.type in (tarfile.REGTYPE, tarfile.AREGTYPE) or info.isdir() or info.issym() or info.islnk()):
        raise Refuses(f"{said} is not a file, folder or link")
    inside = not (
        name.startswith(b"/") or b"\0" in name or any(part in (b"", b".", b"..") for part in name.split(b"/"))
    )
    if not inside and not (top and name == TOP and info.isdir()):
        raise Refuses(f"{said} leads outside the folder")
    if too_long(name) or len(info.linkname) > LONGEST:
        raise Refuses(f"{said[:60]}… is too long a path")
    if info.size < 0 or (info.size and not info.isreg()) or (parts(info) is not None and info.size > LARGEST):
        raise Refuses(f"{said} has an impossible size")
    if not all(0 <= number < (1 << 32) - 1 for number in (info.uid, info.gid)):
        raise Refuses(f"{said} has an impossible owner")
    if abs(time_ns(info)) > LATEST * SECOND:
        raise Refuses(f"{said} has an impossible time")


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
        archive = Members(stream)
        while info := archive.next():
            info.name = _inner(info.name, limits.inside)
            if info.islnk():
                info.linkname = _inner(info.linkname, limits.inside)
            if info.name == "." and info.isdir() and not limits.top:
                continue
            walked.admit(info, limits)
            if info.isreg():
                yield info, _content(file.path, archive, info)
            elif not info.issym():
                yield info, None
        # A broken header in the middle may look like the end of the archive.
        if stream.has_more_than_zeros(archive.place):
            raise Refuses("there is something after its end")
        if archive.cut and not archive.place:
            raise Refuses("it is empty")
        walked.require(limits)
    for link in walked.links():
        yield link, None


def _inner(name: str, folder: str) -> str:
    name = name.removeprefix("./") or "."
    if not folder:
        return name
    if name != folder and not name.startswith(f"{folder}/"):
        raise Refuses(f"{shown(name)} is not in {folder}")
    return name.removeprefix(folder).removeprefix("/") or "."


def _content(path: Path, archive: Members, info: TarInfo) -> Iterator[bytes]:
    if stored(info) <= SMALL:
        return iter(list(archive.content(info)))
    return _blocks(path, archive, info)


def _blocks(path: Path, archive: Members, info: TarInfo) -> Iterator[bytes]:
    with refusing(path):
        yield from archive.content(info)


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
