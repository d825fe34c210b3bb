"""A tree with everything that an entry may have beside its content, and what there is to see of a tree."""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path

MOMENT = 981_173_106_123_456_789
BEFORE_1970 = -315_619_199_500_000_000

ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
CAPABILITY = "security.capability"
NET_RAW = bytes.fromhex("0100000200200000000000000000000000000000")

USER_OBJ, USER, GROUP_OBJ, MASK, OTHER = 0x01, 0x02, 0x04, 0x10, 0x20
NOBODY = 0xFFFFFFFF


def acl(*entries: tuple[int, int, int]) -> bytes:
    """An ACL as the kernel takes it: tag, permissions and id of each entry."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *one) for one in entries)


WIDE_MASK = acl((USER_OBJ, 6, NOBODY), (USER, 6, 1234), (GROUP_OBJ, 4, NOBODY), (MASK, 6, NOBODY), (OTHER, 4, NOBODY))
"""What makes `ls -l` show rw- for a group that may only read."""
INHERITED = acl((USER_OBJ, 7, NOBODY), (USER, 5, 77), (GROUP_OBJ, 5, NOBODY), (MASK, 5, NOBODY), (OTHER, 0, NOBODY))

ODD, SECOND = os.fsdecode(b"caf\xe9"), os.fsdecode(b"th\xe9")


def make_unusual(top: Path) -> None:
    """Fill a new folder; what only root can give, such as another owner, it has only as root."""
    top.mkdir(parents=True, exist_ok=True)
    for name in ("plain", "acl", "d/deep/inner", ODD, "new\nline", "empty-file"):
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text("" if name == "empty-file" else f"content of {name!a}")
    (top / "empty").mkdir()
    with (top / "sparse").open("wb") as stream:
        stream.seek(20 << 20)
        stream.write(b"middle")
        stream.truncate(64 << 20)
    with (top / "holes").open("wb") as stream:
        stream.truncate(5 << 20)
    for first, second in (("plain", "z"), ("plain", "d/second"), (ODD, SECOND), ("sparse", "d/sparse too")):
        os.link(top / first, top / second)
    (top / "link").symlink_to("plain")
    (top / "dangling").symlink_to("n" * 150)
    (top / "d" / ("long" * 40)).write_text("long name")
    for name, value in {
        "user.note": b"hello",
        "user.bin": b"\0\xff=\n%",
        "user.a=b%c": b"v",
        "user.empty": b"",
    }.items():
        os.setxattr(top / "acl", name, value)
    os.setxattr(top / "d", "user.of a folder", b"f" * 2000)
    os.setxattr(top / "acl", ACCESS, WIDE_MASK)
    os.setxattr(top / "d", DEFAULT, INHERITED)
    if os.geteuid() == 0:
        os.chown(top / "d/deep", 5, 6)
        os.chown(top / "empty", 1234, 3_000_000)
        os.chown(top / "plain", 7, 8)
        os.chown(top / "link", 9, 9, follow_symlinks=False)
    (top / "plain").chmod(0o640)
    (top / "d").chmod(0o1770)
    (top / "d/deep").chmod(0o2750)
    (top / "empty").chmod(0o700)
    top.chmod(0o3755)
    moments = {
        "plain": MOMENT, "acl": BEFORE_1970, "link": MOMENT + 1, "empty": MOMENT + 2, "d": MOMENT + 3, "d/deep": 0,
        "sparse": MOMENT * 2, ODD: MOMENT // 10**9 * 10**9, ".": MOMENT + 4,
    }  # fmt: skip
    for name, moment in moments.items():
        os.utime(top / name, ns=(moment, moment), follow_symlinks=False)


Seen = dict[str, tuple[object, ...]]


def look(top: Path) -> Seen:
    """All there is to see of a tree, by name: also which names are one file, and that holes are holes."""
    found: Seen = {}
    first: dict[int, str] = {}
    for path in [top, *sorted(top.rglob("*"))]:
        name, seen = str(path.relative_to(top)), path.lstat()
        link = stat.S_ISLNK(seen.st_mode)
        attributes = {} if link else {one: os.getxattr(path, one) for one in sorted(os.listxattr(path))}
        same = first.setdefault(seen.st_ino, name)
        size, holes, content = seen.st_size, False, b""
        if stat.S_ISREG(seen.st_mode):
            holes = seen.st_blocks * 512 < size // 2
            content = _middle(path) if size > 1 << 20 else path.read_bytes()
        found[name] = (
            stat.filemode(seen.st_mode), seen.st_uid, seen.st_gid, seen.st_mtime_ns, attributes, same, holes,
            str(path.readlink()) if link else "", 0 if stat.S_ISDIR(seen.st_mode) else size, content,
        )  # fmt: skip
    return found


def _middle(path: Path) -> bytes:
    """What stands in the middle of a sparse file."""
    with path.open("rb") as stream:
        stream.seek(20 << 20)
        return stream.read(6)
