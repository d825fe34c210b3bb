"""Reads the entries of a tar stream, of the formats that tar programs write today: GNU's and POSIX's, with PAX records.

Python's tarfile is not used: it searches headers in the square of their length (CVE-2024-6232), reads as much as a
header says that it has, and unpacks the holes of a sparse file.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from tarfile import TarInfo

from conche.backup.headers import add, set_parts, set_time, stored, time_ns, xattr_of
from conche.backup.inflate import BLOCK, HEADERS, Forward, Refuses
from conche.backup.sparse import MOST_PARTS, Parts
from conche.backup.xattrs import kept

__all__ = ["Members"]

NUMBERS = ("size", "uid", "gid")
NAMES = {"path": "name", "linkpath": "linkname", "GNU.sparse.name": "name"}
ACL = "SCHILY.acl."

LONGEST_RECORD = 128 << 10
"""Maximum bytes of one PAX record where those of an entry are too many: the kernel allows an attribute half as much."""

LONGEST_SIZE = 10
"""Maximum digits of a PAX record's length."""


class Members:
    """The entries of a tar stream, one after the other.

    Args:
        lenient: hand out an entry that has too much without that, instead of refusing it: for what was packed just
            now, and is no stranger's archive.

    Attributes:
        place: where in the stream the next header is.
        cut: the stream has ended without saying so.
        lost: the attributes of the entry that `next` returned last which are too many to be read.
        scattered: that entry is a sparse file in too many parts, and has no content here.
    """

    def __init__(self, stream: Forward, *, lenient: bool = False) -> None:
        self._stream, self._lenient, self.place, self.cut = stream, lenient, 0, False
        self.lost: list[str] = []
        self.scattered = False

    def next(self) -> TarInfo | None:
        """Return the next entry; None at the end. Of PAX records it has those for times, attributes and text ACLs.

        Raises:
            Refuses: its header is broken, or larger than any may be.
        """
        self._stream.seek(self.place)
        self._stream.bound()
        records: dict[str, str] = {}
        long: dict[str, bytes] = {}
        self.lost, self.scattered = [], False
        while True:
            block = self._stream.read(tarfile.BLOCKSIZE)
            if not block.strip(b"\0"):
                self.place, self.cut = self._stream.tell(), not block
                self._stream.bound(None)
                return None
            info = _parsed(block)
            if info.type in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
                if info.type == tarfile.XHDTYPE and self._lenient and info.size > HEADERS:
                    records = self._bounded_records(info.size)
                    continue
                content = self._content_of_header(info.size)
                if info.type == tarfile.XHDTYPE:
                    records = dict(_records(content))
                else:
                    long["name" if info.type == tarfile.GNUTYPE_LONGNAME else "linkname"] = content.partition(b"\0")[0]
                continue
            if info.type in (tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE):
                raise Refuses("it has headers for all of its entries")
            for attribute, name in long.items():
                setattr(info, attribute, os.fsdecode(name))
            length = self._apply(info, records)
            self._stream.bound(None)
            if info.type == tarfile.AREGTYPE and info.name.endswith("/"):
                info.type = tarfile.DIRTYPE
            if info.isdir():
                info.name = info.name.rstrip("/")
            info.offset_data = self._stream.tell()
            self.place = info.offset_data + _whole(length if info.isreg() else 0)
            return info

    def content(self, info: TarInfo) -> Iterator[bytes]:
        """Yield the stored content of the entry that `next` returned last.

        Raises:
            Refuses: it is cut off.
        """
        self._stream.seek(info.offset_data)
        left = stored(info)
        while left:
            block = self._stream.read(min(BLOCK, left))
            if not block:
                raise Refuses(f"{info.name.encode(errors='backslashreplace').decode()} is cut off")
            yield block
            left -= len(block)

    def _content_of_header(self, size: int, *, padded: bool = True) -> bytes:
        if size < 0:
            raise Refuses("one of its headers is broken")
        content = self._stream.read(_whole(size) if padded else size)
        if len(content) < size:
            raise Refuses("it is cut off")
        return content[:size]

    def _bounded_records(self, size: int) -> dict[str, str]:
        """Return the PAX records of a large header; attributes that are too many are only named, in `lost`."""
        self._stream.bound(None)
        begun, records, left = self._stream.tell(), dict[str, str](), HEADERS
        room = HEADERS // 2  # for a user's own attributes
        while (place := self._stream.tell() - begun) < size:
            head = b""
            while not head.endswith(b" ") and len(head) <= LONGEST_SIZE:
                head += self._stream.read(1) or b" "
            length = _decimal(head[:-1].decode(errors="replace")) if head.endswith(b" ") else 0
            if not len(head) < length <= min(LONGEST_RECORD, size - place):
                raise Refuses("one of its headers is broken")
            [(key, value)] = _records(head + self._content_of_header(length - len(head), padded=False))
            name = xattr_of(key)
            if name is not None and (not kept(name) or length > room):
                self.lost.append(name)
                continue
            room -= length if name is not None else 0
            left -= length
            records[key] = value
            if left < 0:
                raise Refuses("one of its headers is larger than any of a backup")
        self._stream.seek(begun + _whole(size))
        self._stream.bound()
        return records

    def _apply(self, info: TarInfo, records: dict[str, str]) -> int:
        """Have PAX records say what they say of an entry; return how many bytes follow its header."""
        _describe(info, records)
        length = info.size
        if any(key.startswith("GNU.sparse.") for key in records):
            version = records.get("GNU.sparse.major"), records.get("GNU.sparse.minor")
            if version != ("1", "0") or "GNU.sparse.realsize" not in records or not info.isreg():
                raise Refuses("it has a sparse file in a form that is not known here")
            info.size = _decimal(records["GNU.sparse.realsize"])
            if info.size >= 1 << 63:
                raise Refuses("it has a sparse file of a size that there cannot be")
            length = self._read_parts(info, length)
        return length

    def _read_parts(self, info: TarInfo, length: int) -> int:
        """Read where a sparse file has content; return how many bytes of it follow."""
        self._stream.bound(None)
        numbers = self._numbers()
        count = next(numbers)
        begun, found, end = self._stream.tell(), Parts(), 0
        set_parts(info, found)
        if count > MOST_PARTS:
            self.scattered = self._lenient
            if not self._lenient:
                raise Refuses("it has a sparse file in more parts than there may be")
            return length - tarfile.BLOCKSIZE
        for _ in range(count):
            place, size = next(numbers), next(numbers)
            if place < end or place + size > info.size:
                raise Refuses("it has a sparse file whose parts overlap, or lie outside of it")
            end = place + size
            found.add(place, size)
        read = self._stream.tell() - begun + tarfile.BLOCKSIZE
        if read + stored(info) != length:
            raise Refuses("it has a sparse file whose parts are not as long as it says")
        return length - read

    def _numbers(self) -> Iterator[int]:
        """Yield the numbers that stand before a sparse file's content, each on its line."""
        rest = b""
        while True:
            block = self._stream.read(tarfile.BLOCKSIZE)
            if len(block) < tarfile.BLOCKSIZE:
                raise Refuses("it is cut off")
            *lines, rest = (rest + block).split(b"\n")
            if len(rest) > tarfile.BLOCKSIZE:
                raise Refuses("one of its headers is broken")
            for line in lines:
                yield _decimal(line.decode(errors="replace"))


def _whole(size: int) -> int:
    """Return a size rounded up to whole blocks."""
    return -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def _parsed(block: bytes) -> TarInfo:
    if len(block) < tarfile.BLOCKSIZE:
        raise Refuses("it is cut off")
    if _number(block[148:156]) != sum(block) - sum(block[148:156]) + 8 * ord(" "):
        raise Refuses("one of its headers is broken")
    info = TarInfo()
    name = block[:100].partition(b"\0")[0]
    if block[257:263] == b"ustar\0" and block[345]:
        name = block[345:500].partition(b"\0")[0] + b"/" + name
    info.name, info.linkname = os.fsdecode(name), os.fsdecode(block[157:257].partition(b"\0")[0])
    info.mode, info.uid, info.gid = _number(block[100:108]) & 0o7777, _number(block[108:116]), _number(block[116:124])
    info.size, info.mtime = _number(block[124:136]), _number(block[136:148])
    info.type = block[156:157]
    return info


def _describe(info: TarInfo, records: dict[str, str]) -> None:
    for key, attribute in NAMES.items():
        if key in records:
            setattr(info, attribute, records[key])
    for key in NUMBERS:
        if key in records:
            setattr(info, key, _decimal(records[key]))
    if "mtime" in records:
        add(info, "mtime", records["mtime"])
        try:
            set_time(info, time_ns(info))
        except ValueError as error:
            raise Refuses(f"one of its headers is broken: {error}") from None
    found = {key: value for key, value in records.items() if xattr_of(key) is not None or key.startswith(ACL)}
    if found:
        info.pax_headers = {**info.pax_headers, **found}


def _number(field: bytes) -> int:
    """Return a number of a header: octal, or in GNU's form for larger ones."""
    if field[0] in (0x80, 0xFF):
        return int.from_bytes(field[1:], "big") - (256 ** (len(field) - 1) if field[0] == 0xFF else 0)
    digits = field.partition(b"\0")[0].strip(b" ")
    if digits.strip(b"01234567"):
        raise Refuses("one of its headers is broken")
    return int(digits or b"0", 8)


def _decimal(said: str) -> int:
    if not (said.isascii() and said.isdigit() and len(said) <= 20):
        raise Refuses("one of its headers has a number that no backup has")
    return int(said)


def _records(content: bytes) -> Iterator[tuple[str, str]]:
    """Yield the PAX records in the content of a header."""
    place = 0
    while place < len(content):
        space = content.find(b" ", place, place + 10)
        digits = content[place : max(space, place)]
        end = place + int(digits) if digits.isdigit() else 0
        key, equals, value = content[space + 1 : end - 1].partition(b"=")
        if not space < end <= len(content) or content[end - 1 : end] != b"\n" or not (key and equals):
            raise Refuses("one of its headers is broken")
        yield key.decode(errors="surrogateescape"), value.decode(errors="surrogateescape")
        place = end
