"""Tells by what the file system says of a file whether it is still what was read: then it need not be read again.

Size, inode, mode, owner and the times of the last change of content (mtime) and of anything at all (ctime) are taken
together. Anybody sets a file's mtime; its ctime only the kernel sets, to the present time, with every change. That is
enough where these hold, and where one does not, the file is read again:

- The file system keeps both times itself, finely, and on its own disk: see `KEPT_BY`. A file system in memory keeps no
  time of what is written through mmap, a network's keeps that of another clock, and an image may be made with any.
- The time of the change was past when the file was read: a later change within one tick of the clock, or within the
  second that an old ext4 knows times to, would have the same. So would one after a clock was set back.
- What was written through mmap is on its way to the disk. The kernel notes a time when a page is first written to, and
  again only once it has been written out.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from conche import syscalls

__all__ = ["Sight", "told_of"]

PAST = 2_000_000_000
"""Nanoseconds that a change must be past: more than the coarsest of the clocks, of whole seconds."""

KEPT_BY = frozenset({0xEF53, 0x58465342, 0x9123683E, 0xF2F52010})
"""Numbers of the file systems whose times are believed: ext2 to ext4, xfs, btrfs, f2fs (statfs(2))."""

DIGEST = 16


def told_of(name: str, seen: os.stat_result) -> bytes:
    """Return a digest of everything that a file system says of a file of this name, but for when it was last read."""
    said = (
        seen.st_mode, seen.st_uid, seen.st_gid, seen.st_size, seen.st_ino, seen.st_nlink,
        seen.st_mtime_ns, seen.st_ctime_ns,
    )  # fmt: skip
    words = f"{name}\0{said}".encode(errors="surrogateescape")
    return hashlib.blake2b(words, digest_size=DIGEST).digest()


@dataclass
class Sight:
    """What was seen of the files that a reading has stored.

    Attributes:
        known: what was seen, when an earlier backup was made, of files that are in it as they are, by name.
        only_looking: nothing is read, so that what is seen now is compared, and proves nothing.
        files: what was seen of each file, by its name; not of one that has to be read again.
        said: what was left out for what was found in files, each with its reason.
        last: what was seen of the last one.
    """

    known: Mapping[str, bytes] = field(default_factory=dict)
    only_looking: bool = False
    files: dict[str, bytes] = field(default_factory=dict)
    said: list[tuple[str, str]] = field(default_factory=list)
    last: bytes = b""
    _whole: hashlib.blake2b = field(default_factory=lambda: hashlib.blake2b(digest_size=DIGEST))
    _sure: bool = True
    _kept: dict[int, bool] = field(default_factory=dict)

    def begin(self) -> None:
        """Begin another archive."""
        self._whole, self._sure, self.said = hashlib.blake2b(digest_size=DIGEST), True, []

    @property
    def whole(self) -> str:
        """A digest of all that was seen since `begin`, in order; empty if some of it has to be read again."""
        return self._whole.hexdigest() if self._sure else ""

    def judged(self, name: str, seen: os.stat_result, of: int | str) -> bytes:
        """Return what is seen of a file or folder that is about to be read; nothing if it will have to be read again.

        Args:
            of: its descriptor, or the path of a folder.
        """
        told = told_of(name, seen)
        if self.only_looking or self.known.get(name) == told:
            return told
        sure = time.time_ns() - seen.st_ctime_ns > PAST and self._is_kept(seen.st_dev, of)
        if sure and isinstance(of, int):
            sure = syscalls.write_out(of)
        return told if sure else b""

    def saw(self, name: str, what: bytes) -> None:
        """Note what was seen of something that is stored now; nothing if it has to be read again."""
        self.last = what
        self._whole.update(what)
        if what:
            self.files[name] = what
        else:
            self._sure = False

    def _is_kept(self, device: int, of: int | str) -> bool:
        if device not in self._kept:
            self._kept[device] = syscalls.file_system(of) in KEPT_BY
        return self._kept[device]
