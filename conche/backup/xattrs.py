"""Extended attributes that a backup brings along: a user's own, and what POSIX ACLs and file capabilities are kept in.

Others are the system's business: labels of SELinux or IMA, and what file systems keep under `trusted`.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator
from tarfile import TarInfo

from conche.backup.acl import ACCESS, DEFAULT, own_mode, own_mode_of_text
from conche.backup.headers import attach, attributes, drop, xattr_of

__all__ = [
    "admit_attributes", "give_attributes", "kept", "missed", "read_attributes", "take_attributes", "write_attributes",
]  # fmt: skip

CAPABILITY = "security.capability"

OF_SYSTEM = ("security.", "system.", "trusted.overlay.")
"""Attributes that the system itself gives, beside those named above."""

LARGEST, MOST = 64 << 10, 128 << 10
"""Bytes of an attribute's value, which is what Linux allows, and of all attributes of an entry with their names."""

NOT_TAKEN = (errno.ENOTSUP, errno.EPERM, errno.EACCES, errno.ENOSPC, errno.EDQUOT, errno.EINVAL, errno.E2BIG,
             errno.ERANGE, errno.ENOSYS)  # fmt: skip
"""Errors of setting an attribute that a file system, or this user, cannot set."""


def kept(name: str) -> bool:
    """Return whether backups bring an attribute along."""
    return name.startswith("user.") or name in (ACCESS, DEFAULT, CAPABILITY)


def named(name: str) -> str:
    """Return what an attribute is for, in words."""
    words = {ACCESS: "ACL", DEFAULT: "default ACL", CAPABILITY: "file capabilities"}
    return words.get(name, "extended attributes")


def read_attributes(of: str | int) -> tuple[dict[str, bytes], list[str]]:
    """Return the attributes of a file or folder that a backup brings along, and the names of others that one may miss.

    Args:
        of: an open file, or the path of a folder.

    Raises:
        OSError: they cannot be read.
    """
    follow = isinstance(of, int)
    try:
        names = os.listxattr(of, follow_symlinks=follow)
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.ENOSYS):
            return {}, []
        raise
    if not names:
        return {}, []
    found, size = {}, 0
    for name in filter(kept, _important_first(names)):
        try:
            found[name] = os.getxattr(of, name, follow_symlinks=follow)
        except OSError as error:
            if error.errno not in (
                errno.ENODATA,
                errno.ENOTSUP,
            ):  # gone meanwhile, or an ACL that says no more than the mode
                raise
            continue
        size += len(os.fsencode(name)) + len(found[name])
        if size > MOST:
            del found[name]
    return found, missed(one for one in names if one not in found)


def admit_attributes(info: TarInfo, *, privileged: bool = False) -> Iterator[str]:
    """Take from an entry of an archive the attributes that no backup may bring along; yield what it loses.

    File capabilities give as many rights as set-user-id does.

    Args:
        privileged: a file may have them.
    """
    given = attributes(info)
    size = 0
    for key in list(info.pax_headers):
        name = xattr_of(key)
        if name is None:
            if key != "mtime" and ACCESS not in given and DEFAULT not in given:
                info.mode = own_mode_of_text(info.mode, info.pax_headers[key])
                drop(info, key)
                yield "its ACL, which is in a form that only GNU tar reads"
            continue
        size += len(key) + len(given[name])
        allowed = kept(name) and (name != CAPABILITY or (privileged and info.isreg()))
        if allowed and "\0" not in name and len(given[name]) <= LARGEST and size <= 2 * MOST:
            continue
        drop(info, key)
        yield named(name) if kept(name) else f"attributes that no backup brings along, as {name.split('.')[0][:20]}.*"
    if given:
        info.mode = own_mode(info.mode, attributes(info).get(ACCESS))


def write_attributes(descriptor: int, info: TarInfo) -> Iterator[str]:
    """Give an open file or folder the attributes of an entry; yield what the file system or this user cannot set.

    An ACL that it has from the folder it was made in is taken away.
    """
    for name in (ACCESS, DEFAULT) if info.isdir() else (ACCESS,):
        with contextlib.suppress(OSError):
            os.removexattr(descriptor, name)
    for name, value in attributes(info).items():
        try:
            os.setxattr(descriptor, name, value)
        except OSError as error:
            if error.errno not in NOT_TAKEN:
                raise
            yield named(name)


def missed(names: Iterable[str]) -> list[str]:
    """Return those of the attributes which a backup lacks that one may miss."""
    return [one for one in names if kept(one) or not one.startswith(OF_SYSTEM)]


def take_attributes(info: TarInfo) -> list[str]:
    """Take from an entry that was just made the attributes that no backup brings along; return those one may miss."""
    found, size, lost = attributes(info), 0, []
    if not found:
        return []
    for name in _important_first(found):
        size += len(os.fsencode(name)) + len(found[name]) if kept(name) else 0
        if not kept(name) or size > MOST:
            lost.append(name)
    info.mode = own_mode(info.mode, found.get(ACCESS))
    dropped = set(lost)
    info.pax_headers = {key: value for key, value in info.pax_headers.items() if xattr_of(key) not in dropped}
    return missed(lost)


def _important_first(names: Iterable[str]) -> list[str]:
    """Return the names of attributes with those in front that say who may do what."""
    return sorted(names, key=lambda name: (name.startswith("user."), name))


def give_attributes(info: TarInfo, found: dict[str, bytes]) -> None:
    """Write into an entry what was read of a file, its mode first."""
    for name, value in sorted(found.items()):
        attach(info, name, value)
    info.mode = own_mode(info.mode, found.get(ACCESS))
