"""POSIX ACLs, as the kernel gives them and as tar programs write them.

Source: https://github.com/torvalds/linux/blob/master/include/uapi/linux/posix_acl_xattr.h
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

__all__ = ["ACCESS", "DEFAULT", "own_mode", "own_mode_of_text", "text"]

ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
"""The attributes that hold the ACL of a file or folder, and the one that what is made in a folder gets."""

ENTRY = struct.Struct("<HHI")
VERSION = struct.pack("<I", 2)
TAGS = {0x01: "user", 0x02: "user", 0x04: "group", 0x08: "group", 0x10: "mask", 0x20: "other"}
NAMED = (0x02, 0x08)
GROUP_OBJ, MASK = 0x04, 0x10


def _entries(acl: bytes) -> Iterator[tuple[int, int, int]]:
    if acl[:4] == VERSION and len(acl) % ENTRY.size == len(VERSION):
        yield from ENTRY.iter_unpack(acl[4:])


def text(acl: bytes) -> str:
    """Return an ACL as GNU tar reads it, such as `user::rw-,user:1234:r--,group::r--,mask::r--,other::---`."""
    return ",".join(
        f"{TAGS[tag]}:{number if tag in NAMED else ''}:{_rights(bits)}"
        for tag, bits, number in _entries(acl)
        if tag in TAGS
    )


def _rights(bits: int) -> str:
    return "".join(sign if bits & bit else "-" for bit, sign in ((4, "r"), (2, "w"), (1, "x")))


def own_mode(mode: int, acl: bytes | None) -> int:
    """Return the mode of a file as its ACL means it.

    The group's bits in a mode with an ACL are the ACL's mask; without the ACL they would become the group's own rights.
    """
    rights = {tag: bits for tag, bits, _ in _entries(acl or b"")}
    if GROUP_OBJ not in rights:
        return mode
    return mode & ~0o070 | (rights[GROUP_OBJ] & rights.get(MASK, 7) & 7) << 3


def own_mode_of_text(mode: int, acl: str) -> int:
    """Return the same of an ACL as GNU tar writes it."""
    for entry in acl.replace("\n", ",").split(","):
        if entry.startswith("group::"):
            said = entry.removeprefix("group::")[:3]
            return mode & (~0o070 | sum(bit << 3 for bit, sign in ((4, "r"), (2, "w"), (1, "x")) if sign in said))
    return mode
