"""Reads what is backed up, independent of its destination: entries of a local folder or of an engine's tar stream.

A file that is rewritten while it is read gives bytes that never were its content, so its state is compared before and
after. A small file is read completely before it is stored; a large one raises `Changed` at its end, and the caller
discards what it has written and reads the file again.
"""

from __future__ import annotations

import os
import re
import stat
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from io import FileIO
from pathlib import Path
from tarfile import TarInfo

from conche.backup import strict
from conche.backup.headers import SECOND, parts, set_parts, set_time, stored, time_ns
from conche.backup.members import Members
from conche.backup.reading import Reading
from conche.backup.sight import told_of
from conche.backup.sparse import parts_of
from conche.backup.strict import DEEPEST, LARGEST, LATEST, too_long
from conche.backup.xattrs import give_attributes, missed, read_attributes, take_attributes

__all__ = [
    "BLOCK", "ZEROS", "Changed", "Entry", "HoldsKey", "Unread", "Unreadable", "local_entries",
    "tar_entries",
]  # fmt: skip

BLOCK = 1 << 20
"""Bytes of one read; a file up to this size is read completely before any of it is stored."""

ZEROS = bytes(BLOCK)

AGE_KEY = re.compile(rb"AGE-SECRET-KEY-1[0-9A-Z]{58}")
KEY_LENGTH = 74

TICK = 10_000_000
"""Nanoseconds: kernels before 6.13 give all changes within one tick, at most 10 ms, the same time.

Source: https://docs.kernel.org/filesystems/multigrain-ts.html
"""

TOP = os.fsdecode(strict.TOP)

NAMED = 8
"""How many attributes that are lost are named, each in up to 255 bytes."""

OUT_OF_TIME = "has a time that no archive may have, since a file system may know none such: it gets that of 1970"
TOO_LARGE = "is larger, with its holes, than an archive that can be restored may have a file"
TOO_SCATTERED = "is a sparse file in more parts than an archive that can be restored may have"
TOO_LONG = "is nested too deeply: an archive with it could not be restored"


class Changed(Exception):
    """A file was rewritten, truncated or replaced while it was read."""


class Unreadable(Exception):
    """A file cannot be read; distinguishes this from an error of writing it elsewhere."""


class HoldsKey(Exception):
    """A file holds a private age key."""


@dataclass(frozen=True)
class Entry:
    """A file, folder or link.

    Attributes:
        info: name relative to what is backed up, and kind; unless it is a file, also mode, owner and time.
        read: for a file, returns its current header and its blocks; the header may be that of a hard link to a file
            that was read before.
        look: for a file of a local folder, returns its current state.
        seen: for a folder or link of one, what was seen of it (sight.py).
    """

    info: TarInfo
    read: Callable[[], tuple[TarInfo, Iterator[bytes]]] | None = None
    look: Callable[[], os.stat_result] | None = None
    seen: bytes = b""


class Unread:
    """The blocks of a file that an earlier backup has as it is now; they are read only if somebody asks for them."""

    def __init__(self, blocks: Iterator[bytes], keep: Callable[[], None]) -> None:
        self._blocks, self._keep = blocks, keep

    def __iter__(self) -> Iterator[bytes]:
        return self._blocks

    def __next__(self) -> bytes:
        return next(self._blocks)

    def keep(self) -> None:
        """Take it as what the earlier backup has."""
        self._keep()


def local_entries(root: Path, name: str, reading: Reading) -> Iterator[Entry]:
    """Yield a file or folder of `root` and everything below it, always in the same order.

    Whatever is not a file, folder or link, or cannot be read, is left out and recorded in `reading`.
    """
    path = root / name
    try:
        seen = path.lstat()
        target = str(path.readlink()) if stat.S_ISLNK(seen.st_mode) else ""
    except OSError as error:
        reading.leave_out(name, _why(error), harmful=True)
        return
    info = _info(name, seen)
    if stat.S_ISLNK(seen.st_mode):
        info.type, info.linkname = tarfile.SYMTYPE, target
        _require_time(info, reading)
        if not reading.refuses_link(info):
            yield Entry(info, seen=reading.sight.judged(f"{name}\0{target}", seen, str(path.parent)))
    elif stat.S_ISREG(seen.st_mode):
        info.size = seen.st_size
        yield Entry(info, partial(_read, str(path), name, reading), path.lstat)
    elif stat.S_ISDIR(seen.st_mode):
        children = _children(path, name, reading)
        if children is None:
            return
        yield _folder(info, path, reading, reading.sight.judged(name, seen, str(path)))
        for child in children:
            below = f"{name}/{child.name}"
            if reading.excludes(below):
                continue
            if child.is_file(follow_symlinks=False):
                # Its header is made when it is read: a second stat here would take a third of the time.
                look = partial(child.stat, follow_symlinks=False)
                yield Entry(TarInfo(below), partial(_read, child.path, below, reading), look)
            else:
                yield from local_entries(root, below, reading)
    else:
        reading.leave_out(name, "is a " + _kind(seen.st_mode))


def _folder(info: TarInfo, path: Path, reading: Reading, seen: bytes) -> Entry:
    info.type = tarfile.DIRTYPE
    _require_time(info, reading)
    try:
        _describe(info, str(path), reading)
    except OSError as error:
        reading.leave_out(info.name, f"has attributes that cannot be read: {error.strerror}", harmful=True)
    return Entry(info, seen=seen)


def _children(path: Path, name: str, reading: Reading) -> list[os.DirEntry[str]] | None:
    """Return the entries of a folder, sorted by name; None if it cannot be read."""
    try:
        children = sorted(os.scandir(path), key=lambda child: child.name)
    except OSError as error:
        reading.leave_out(name, _why(error), harmful=True)
        return None
    if children and name.count("/") + 2 > DEEPEST:
        reading.leave_out(f"{name}/*", TOO_LONG, harmful=True)
        return []
    return children


def tar_entries(stream: Members, prefix: str, reading: Reading) -> Iterator[Entry]:
    """Yield the entries of a tar stream below the folder `prefix`, with that folder removed from their names."""
    taken, too_much = set[str](), dict[str, str]()
    while info := stream.next():
        below = _below(info.name, prefix) or (TOP if reading.top and info.isdir() else "")
        if not below or (below != TOP and reading.excludes_own(below)):
            continue
        if too_long(os.fsencode(below)):
            reading.leave_out(below, TOO_LONG, harmful=True)
            continue
        if why := _too_much(info, stream) or too_much.get(_below(info.linkname, prefix) if info.islnk() else ""):
            too_much[below] = why
            reading.leave_out(below, why, harmful=True)
            continue
        if not (info.isreg() or info.isdir() or info.issym() or info.islnk()):
            reading.leave_out(below, "is not a file, folder or link")
            continue
        info.name = below
        if info.islnk():
            info.linkname = _below(info.linkname, prefix)
            if info.linkname not in taken:
                reading.second_names.append(below)
                continue
        elif info.isreg():
            taken.add(below)
        _require_time(info, reading)
        _say_lost(below, [*take_attributes(info), *missed(stream.lost)], reading)
        yield Entry(info, _streamed(stream, info) if info.isreg() else None)


def _too_much(info: TarInfo, stream: Members) -> str:
    """Return why an archive that can be restored cannot have a file; nothing if it can."""
    if info.size > LARGEST:
        return TOO_LARGE
    return TOO_SCATTERED if stream.scattered else ""


def _below(name: str, prefix: str) -> str:
    return name.strip("/").removeprefix(prefix).strip("/")


def _streamed(stream: Members, info: TarInfo) -> Callable[[], tuple[TarInfo, Iterator[bytes]]]:
    return lambda: (info, stream.content(info))


def _read(path: str, name: str, reading: Reading) -> tuple[TarInfo, Iterator[bytes]]:
    """Return a file's current header and its blocks; the iterator closes the file."""
    # O_NONBLOCK: a FIFO that has replaced the file meanwhile would block.
    try:
        stream = FileIO(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as error:
        raise Unreadable(_why(error)) from error
    try:
        before = _settled(stream)
        if not stat.S_ISREG(before.st_mode):
            raise Changed(name)
        if before.st_size > LARGEST:
            raise Unreadable(TOO_LARGE)
        info, sight = _info(name, before), reading.sight
        seen = sight.judged(name, before, stream.fileno())
        if before.st_nlink > 1 and (first := reading.first_names.get(_identity(before))) is not None:
            stream.close()
            sight.saw(name, seen)
            info.type, info.linkname = tarfile.LNKTYPE, first
            return info, iter(())
        info.size = before.st_size
        _require_time(info, reading)
        _describe(info, stream.fileno(), reading)
        if before.st_blocks * 512 < before.st_size:
            set_parts(info, parts_of(stream, before.st_size))
        blocks = _blocks(stream, before, (name, info, seen), reading)
        if seen and sight.known.get(name) == seen:
            return info, Unread(blocks, partial(_kept, stream, before, name, reading))
        return info, (blocks if stored(info) > BLOCK else iter(list(blocks)))
    except OSError as error:
        stream.close()
        raise Unreadable(_why(error)) from error
    except BaseException:
        stream.close()
        raise


def _settled(stream: FileIO) -> os.stat_result:
    """Return a file's state, once any later change is sure to give it another time."""
    seen = os.fstat(stream.fileno())
    if 0 <= time.time_ns() - seen.st_ctime_ns < TICK:
        time.sleep(TICK / 1e9)
        seen = os.fstat(stream.fileno())
    return seen


def _describe(info: TarInfo, of: str | int, reading: Reading) -> None:
    """Write into an entry what a file or folder has beside content, mode, owner and time."""
    found, others = read_attributes(of)
    if found:
        give_attributes(info, found)
    _say_lost(info.name, others, reading)


def _say_lost(name: str, lost: Sequence[str], reading: Reading) -> None:
    """Record which attributes of a file or folder are not in the backup, by a few of their names."""
    if lost:
        rest = f" and {len(lost) - NAMED} others" if len(lost) > NAMED else ""
        reading.leave_out(name, f"has attributes that are not kept: {', '.join(lost[:NAMED])}{rest}", harmful=True)


def _kept(stream: FileIO, seen: os.stat_result, name: str, reading: Reading) -> None:
    """Note that a file is stored as what an earlier backup has of it."""
    stream.close()
    reading.sight.saw(name, reading.sight.known[name])
    if seen.st_nlink > 1:
        reading.first_names[_identity(seen)] = name


def _blocks(
    stream: FileIO, before: os.stat_result, of: tuple[str, TarInfo, bytes], reading: Reading
) -> Iterator[bytes]:
    name, info, seen = of
    with stream:
        sparse, tail = parts(info), b""
        for begun, length in [(0, info.size)] if sparse is None else sparse:
            stream.seek(begun)
            left = length
            while left:
                try:
                    block = stream.read(min(BLOCK, left))
                except OSError as error:
                    raise Unreadable(_why(error)) from error
                if not block:
                    raise Changed(name)
                if reading.searched and _holds_key(tail, block):
                    reading.sight.saw(name, seen if _unchanged(before, os.fstat(stream.fileno())) else b"")
                    raise HoldsKey(name)
                tail = block[-KEY_LENGTH:]
                left -= len(block)
                yield block
        after = os.fstat(stream.fileno())
        if not _same(before, after, reading) and not (reading.grows and after.st_size > before.st_size):
            raise Changed(name)
        reading.sight.saw(name, seen if _unchanged(before, after) else b"")
        if before.st_nlink > 1:
            reading.first_names[_identity(before)] = name


def _identity(seen: os.stat_result) -> tuple[int, int, int]:
    """Return what all names of a file share, and no other file that may get its inode later."""
    return seen.st_dev, seen.st_ino, seen.st_ctime_ns


def _same(before: os.stat_result, after: os.stat_result, reading: Reading) -> bool:
    """Return whether a file was left alone.

    A program that rewrites it may set mtime back, as rsync does, but nobody can set ctime. A rename or removal changes
    ctime too, though, and a log that is rotated meanwhile was still read completely.
    """
    moved = reading.grows or after.st_nlink < before.st_nlink
    same = (after.st_mtime_ns, after.st_size) == (before.st_mtime_ns, before.st_size)
    return same and (moved or after.st_ctime_ns == before.st_ctime_ns)


def _unchanged(before: os.stat_result, after: os.stat_result) -> bool:
    """Return whether nothing of a file has changed."""
    return told_of("", before) == told_of("", after)


def _holds_key(tail: bytes, block: bytes) -> bool:
    if tail and AGE_KEY.search(tail + block[:KEY_LENGTH]):
        return True
    return b"AGE-SECRET-KEY-1" in block and AGE_KEY.search(block) is not None


def _require_time(info: TarInfo, reading: Reading) -> None:
    """Give an entry another time if with its own its archive could not be restored: anybody sets that of his file."""
    if abs(time_ns(info)) > LATEST * SECOND:
        set_time(info, 0)
        reading.leave_out(info.name, OUT_OF_TIME)


def _info(name: str, seen: os.stat_result) -> TarInfo:
    info = TarInfo(name)
    info.mode = stat.S_IMODE(seen.st_mode)
    info.uid, info.gid = seen.st_uid, seen.st_gid
    set_time(info, seen.st_mtime_ns)
    return info


def _why(error: OSError) -> str:
    return f"cannot be read: {error.strerror}"


def _kind(mode: int) -> str:
    kinds = {stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket", stat.S_IFCHR: "device", stat.S_IFBLK: "device"}
    return kinds.get(stat.S_IFMT(mode), "special file")
