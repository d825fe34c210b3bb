"""The version of the running Conche, from git in a checkout, or as recorded when its package was built.

It is determined from the running code's own folder: another Conche may be installed too, or precede it on Python's
path.
"""

from __future__ import annotations

import contextlib
import functools
import re
from pathlib import Path

from conche.commit import described
from conche.errors import Unreachable

__all__ = ["BUILT", "UNKNOWN", "is_packaged", "version", "version_of"]

BUILT = "_version.py"
"""The file that hatch-vcs writes into a package when building it; a checkout has none, or an outdated one."""

UNKNOWN = "0+unknown"
"""The version of files that were copied from a checkout without its history."""

_HERE = Path(__file__).parent
_DESCRIBED = re.compile(r"(?:v(?P<tag>[0-9]\S*)-(?P<since>\d+)-g)?(?P<commit>[0-9a-f]{7,})(?P<dirty>-dirty)?")
_WRITTEN = re.compile(r'version = "(?P<version>[^"]+)"')


@functools.cache
def version() -> str:
    """Return the version of the running code by PEP 440: three commits after a tag, `0.2.0.post3+g1a2b3c4`."""
    return version_of(_HERE)


def version_of(package: Path) -> str:
    """Return the version of the package in a folder."""
    return _described(package.parent) or _written(package / BUILT) or UNKNOWN


def is_packaged() -> bool:
    """Return whether the running code is an installed package, not a checkout."""
    return not (_HERE.parent / ".git").exists() and (_HERE / BUILT).is_file()


def _described(root: Path) -> str:
    """Return git's version of the checkout at `root`; empty if `root` is not a checkout, as for installed packages."""
    if not (root / ".git").exists():
        return ""
    try:
        said = _DESCRIBED.fullmatch(described(root, "--tags", "--match", "v[0-9]*", "--long"))
    except Unreachable:
        return ""
    if said is None:
        return ""
    local = f"+g{said['commit']}" + (".dirty" if said["dirty"] else "")
    if said["tag"] is None:
        return "0" + local
    if said["since"] == "0":
        return str(said["tag"]) + ("+dirty" if said["dirty"] else "")
    return f"{said['tag']}.post{said['since']}{local}"


def _written(file: Path) -> str:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        said = _WRITTEN.search(file.read_text(encoding="utf-8"))
        return said["version"] if said else ""
    return ""
