"""What is read, before it is known where it goes: entries of a folder here, or of a tar stream from an engine.

A file that is rewritten while it is read gives bytes that never were its content. So it is looked at before and after:
a small one is read whole first, a large one raises `Changed` at its end, and whoever stores it takes back what it has
written and reads again.
"""

from __future__ import annotations

import errno
import fnmatch
import os
import re
import stat
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from io import FileIO
from pathlib import Path
from tarfile import TarInfo

from conche.backup.extract import DEEPEST, leads_out, too_long

__all__ = [
    "BLOCK", "ZEROS", "Changed", "Entry", "HoldsKey", "LeftOut", "Reading", "Unreadable", "local_entries",
    "tar_entries",
]  # fmt: skip

BLOCK = 1 << 20
"""Bytes of one read; a file of at most this is read whole before a byte of it is stored."""

ZEROS = bytes(BLOCK)

AGE_KEY = re.compile(rb"AGE-SECRET-KEY-1[0-9A-Z]{58}")
KEY_LENGTH = 74

TICK = 10_000_000
"""Nanoseconds: kernels before 6.13 give all changes of one tick, 10 ms at most, the same time.

Source: https://docs.kernel.org/filesystems/multigrain-ts.html
"""

NEVER = (".env", ".env.*", ".sops", ".git", ".backup", ".venv", ".nox", "__pycache__", "node_modules", "*.pyc")
"""Names that no local component takes: secrets, and what is made anew from something else."""
ALWAYS = (".env.example",)

TOO_LONG = "lies too deep: no archive with it would be restored"
LEADS_OUT = "is a link that leads outside: no archive with it would be restored; exclude it"


class Changed(Exception):
    """A file was rewritten, cut or replaced while it was read."""


class Unreadable(Exception):
    """A file cannot be read; the error of what it is written to is another one."""


class HoldsKey(Exception):
    """A file holds a private age key."""


@dataclass(frozen=True)
class LeftOut:
    """What is not in the backup.

    Attributes:
        why: one or two words, such as `is a socket`.
        harmful: somebody will miss it, so that the backup is degraded.
    """

    name: str
    why: str
    harmful: bool = False


@dataclass(frozen=True)
class Entry:
    """A file, folder or symbolic link.

    Attributes:
        info: name relative to what is backed up, and kind; for what is no file mode, owner and time too.
        read: for a file, its header as it is now and its blocks.
    """

    info: TarInfo
    read: Callable[[], tuple[TarInfo, Iterator[bytes]]] | None = None


@dataclass
class Reading:
    """What came of reading a component's sources.

    Attributes:
        grows: files may grow while they are read, and are taken as far as they went at first: logs.
        searched: contents are searched for private keys.
        inside: links that lead outside are left out, as the archive with them would be refused.
        second_names: files that the stream has only as hard links to others; each is to be asked for by itself.
    """

    exclude: Sequence[str] = ()
    grows: bool = False
    searched: bool = True
    inside: bool = False
    left_out: list[LeftOut] = field(default_factory=list)
    second_names: list[str] = field(default_factory=list)

    @cached_property
    def _rules(self) -> re.Pattern[str]:
        """Every rule in one: a tree may have a hundred thousand names."""
        return re.compile("|".join(fnmatch.translate(rule) for rule in (*NEVER, *self.exclude)))

    def leave_out(self, name: str, why: str, *, harmful: bool = False) -> None:
        """Note that something is not in the backup."""
        self.left_out.append(LeftOut(name, why, harmful))

    def refuses_link(self, info: TarInfo) -> bool:
        """Whether a link is left out because the archive with it would not be restored; said if so."""
        refused = self.inside and leads_out(os.fsencode(info.name), os.fsencode(info.linkname))
        if refused:
            self.leave_out(info.name, LEADS_OUT, harmful=True)
        return refused

    def excludes(self, name: str) -> bool:
        """Whether a name, or the path that ends with it, is left out by the rules."""
        last = name.rpartition("/")[2]
        if last in ALWAYS:
            return False
        return bool(self._rules.match(last) or self._rules.match(name))

    def excludes_own(self, name: str) -> bool:
        """Whether the component's own rules leave out a path: itself, or a folder that it stands in."""
        parts = name.split("/")
        return any(
            fnmatch.fnmatch(part, rule) or fnmatch.fnmatch("/".join(parts[: place + 1]), rule)
            for rule in self.exclude
            for place, part in enumerate(parts)
        )


def local_entries(root: Path, name: str, reading: Reading) -> Iterator[Entry]:
    """A file or folder of `root` and everything below it, in an order that is always the same.

    What is neither file, folder nor link is left out, and so is what cannot be read: that is said in `reading`.
    """
    path = root / name
    try:
        seen = path.lstat()
    except OSError as error:
        reading.leave_out(name, _why(error), harmful=True)
        return
    info = _info(name, seen)
    if stat.S_ISLNK(seen.st_mode):
        info.type, info.linkname = tarfile.SYMTYPE, str(path.readlink())
        if not reading.refuses_link(info):
            yield Entry(info)
    elif stat.S_ISREG(seen.st_mode):
        info.size = seen.st_size
        yield Entry(info, partial(_read, str(path), name, reading))
    elif stat.S_ISDIR(seen.st_mode):
        children = _children(path, name, reading)
        if children is None:
            return
        info.type = tarfile.DIRTYPE
        yield Entry(info)
        for child in children:
            below = f"{name}/{child.name}"
            if reading.excludes(below):
                continue
            if child.is_file(follow_symlinks=False):
                # Its header is made when it is read: asking for it here too would take a third of the time.
                yield Entry(TarInfo(below), partial(_read, child.path, below, reading))
            else:
                yield from local_entries(root, below, reading)
    else:
        reading.leave_out(name, "is a " + _kind(seen.st_mode))


def _children(path: Path, name: str, reading: Reading) -> list[os.DirEntry[str]] | None:
    """What is in a folder, by name; None where that cannot be read."""
    try:
        children = sorted(os.scandir(path), key=lambda child: child.name)
    except OSError as error:
        reading.leave_out(name, _why(error), harmful=True)
        return None
    if children and name.count("/") + 2 > DEEPEST:
        reading.leave_out(f"{name}/*", TOO_LONG, harmful=True)
        return []
    return children


def tar_entries(stream: tarfile.TarFile, prefix: str, reading: Reading) -> Iterator[Entry]:
    """The entries of a tar stream below the folder `prefix`, with that folder taken off their names."""
    for info in stream:
        stream.members = []  # type: ignore[attr-defined]  # it would keep every one
        below = info.name.strip("/").removeprefix(prefix).strip("/")
        if not below or reading.excludes_own(below):
            continue
        if too_long(os.fsencode(below)):
            reading.leave_out(below, TOO_LONG, harmful=True)
            continue
        if info.islnk():
            reading.second_names.append(below)
            continue
        if not (info.isreg() or info.isdir() or info.issym()):
            reading.leave_out(below, "is no file, folder or link")
            continue
        info.name = below
        yield Entry(info, _streamed(stream, info) if info.isreg() else None)


def _streamed(stream: tarfile.TarFile, info: TarInfo) -> Callable[[], tuple[TarInfo, Iterator[bytes]]]:
    def read() -> tuple[TarInfo, Iterator[bytes]]:
        content = stream.extractfile(info)
        assert content is not None
        return info, iter(lambda: content.read(BLOCK), b"")

    return read


def _read(path: str, name: str, reading: Reading) -> tuple[TarInfo, Iterator[bytes]]:
    """A file's header as it is now, and its blocks; the iterator closes the file."""
    # A FIFO that has taken the file's place meanwhile would otherwise be waited for.
    try:
        stream = FileIO(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as error:
        raise Unreadable(_why(error)) from error
    try:
        before = _settled(stream)
        if not stat.S_ISREG(before.st_mode):
            raise Changed(name)
        info = _info(name, before)
        info.size = before.st_size
        blocks = _blocks(stream, before, name, reading)
        return info, (blocks if before.st_size > BLOCK else iter(list(blocks)))
    except BaseException:
        stream.close()
        raise


def _settled(stream: FileIO) -> os.stat_result:
    """A file's state, at a moment after which every change gives it another time."""
    seen = os.fstat(stream.fileno())
    if 0 <= time.time_ns() - seen.st_ctime_ns < TICK:
        time.sleep(TICK / 1e9)
        seen = os.fstat(stream.fileno())
    return seen


def _blocks(stream: FileIO, before: os.stat_result, name: str, reading: Reading) -> Iterator[bytes]:
    with stream:
        left, tail = before.st_size, b""
        sparse = before.st_blocks * 512 < before.st_size
        while left:
            try:
                block = ZEROS if sparse and left >= BLOCK and _skipped_hole(stream) else stream.read(min(BLOCK, left))
            except OSError as error:
                raise Unreadable(_why(error)) from error
            if not block:
                raise Changed(name)
            if block is not ZEROS and reading.searched and _holds_key(tail, block):
                raise HoldsKey(name)
            tail = block[-KEY_LENGTH:]
            left -= len(block)
            yield block
        after = os.fstat(stream.fileno())
        if not _same(before, after, reading) and not (reading.grows and after.st_size > before.st_size):
            raise Changed(name)


def _same(before: os.stat_result, after: os.stat_result, reading: Reading) -> bool:
    """Whether a file was left alone.

    Who rewrites it may set its time back, as rsync does; the time of its last change nobody can set. But that is also
    the time of its rename or removal, and a log that is rotated meanwhile was still read whole.
    """
    moved = reading.grows or after.st_nlink < before.st_nlink
    same = (after.st_mtime_ns, after.st_size) == (before.st_mtime_ns, before.st_size)
    return same and (moved or after.st_ctime_ns == before.st_ctime_ns)


def _skipped_hole(stream: FileIO) -> bool:
    """Go over a block that lies in a hole: it need not be read."""
    place = stream.tell()
    try:
        data = stream.seek(place, os.SEEK_DATA)
    except OSError as error:
        if error.errno not in (errno.ENXIO, errno.EINVAL):  # nothing but a hole up to the end; or cannot tell
            raise
        data = place + BLOCK if error.errno == errno.ENXIO else place
    skipped = data >= place + BLOCK
    stream.seek(place + BLOCK if skipped else place)
    return skipped


def _holds_key(tail: bytes, block: bytes) -> bool:
    if tail and AGE_KEY.search(tail + block[:KEY_LENGTH]):
        return True
    return b"AGE-SECRET-KEY-1" in block and AGE_KEY.search(block) is not None


def _info(name: str, seen: os.stat_result) -> TarInfo:
    info = TarInfo(name)
    info.mode = stat.S_IMODE(seen.st_mode)
    info.uid, info.gid = seen.st_uid, seen.st_gid
    info.mtime = int(seen.st_mtime)
    return info


def _why(error: OSError) -> str:
    return f"cannot be read: {error.strerror}"


def _kind(mode: int) -> str:
    kinds = {stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket", stat.S_IFCHR: "device", stat.S_IFBLK: "device"}
    return kinds.get(stat.S_IFMT(mode), "special file")
