"""What the kernel says is mounted where."""

from __future__ import annotations

import os
import re
from pathlib import Path

__all__ = ["MOUNTINFO", "mounted", "types"]

MOUNTINFO = Path("/proc/self/mountinfo")


def mounted() -> dict[Path, str]:
    """Return the mounts of this process (`types`).

    Raises:
        OSError: there is no such list, as on systems other than Linux.
    """
    return types(os.fsdecode(MOUNTINFO.read_bytes()))


def types(text: str) -> dict[Path, str]:
    """Return mount point -> type of the file system there, from a mountinfo file; of two on one point, the upper one.

    Mount points are written with octal escapes.
    Source: https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html
    """
    found = {}
    for line in text.split("\n"):
        fields, _, after = line.partition(" - ")
        if after:
            found[Path(_unescaped(fields.split(" ")[4]))] = after.split(" ")[0]
    return found


def _unescaped(name: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), name)
