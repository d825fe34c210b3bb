"""Find a repository's secrets by name: in SOPS files, in .env, in Compose's `secrets:`. Values are never returned."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import yaml

from conche.init.files import LARGEST, MOST_FILES
from conche.secret import SECRET_NAME

__all__ = ["Declared", "SopsFile", "declared", "in_dotenv", "sops_files"]

_PLACES = ("*", ".sops/*", "config/*", "secrets/*", "docker/*", "docker/secrets/*", "deploy/*")
_ENDINGS = (".yaml", ".yml", ".json", ".env", ".enc", ".ini")
_SEALED = re.compile(r"ENC\[AES256_GCM,")
_NAME = re.compile(r"(?!sops)[a-z][a-z0-9_]{0,62}(?<!_unencrypted)")
_METADATA = re.compile(r"^sops_|^sops:|[\"']sops[\"']\s*:", re.MULTILINE)


@dataclass(frozen=True)
class SopsFile:
    """A file that sops has encrypted.

    Attributes:
        file: relative to the repository.
        names: of its values; nested keys are joined by dots.
        why_not: why secrets.* cannot work on it as it is; empty if they can.
    """

    file: Path
    names: tuple[str, ...]
    why_not: str = ""


@dataclass(frozen=True)
class Declared:
    """A secret as stack.yaml will declare it.

    Attributes:
        variable: empty if it is the name in capital letters.
        file: whether services read it as a file.
        reads: whether a Compose file interpolates it.
    """

    name: str
    variable: str = ""
    file: bool = False
    reads: bool = True
    services: tuple[str, ...] = ()


def sops_files(root: Path) -> list[SopsFile]:
    """Return the SOPS files at the top and in the usual places."""
    found = []
    paths = [path for pattern in _PLACES for path in sorted(root.glob(pattern))]
    for path in paths[:MOST_FILES]:
        if path.suffix not in _ENDINGS or not path.is_file() or path.stat().st_size > LARGEST:
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        if _SEALED.search(text) and _METADATA.search(text):
            found.append(_read(path.relative_to(root), text))
    return found


def _read(file: Path, text: str) -> SopsFile:
    try:
        # sops indents JSON with tabs, which YAML does not allow.
        node = yaml.compose(text.replace("\t", "  "), Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError):
        node = None
    if not isinstance(node, yaml.MappingNode):
        variables = re.findall(r"^(?!sops_)([A-Za-z_]\w*)=", text, re.MULTILINE)
        return SopsFile(file, tuple(variables), "it is a dotenv file")
    names = tuple(_names(node))
    if file.suffix not in (".yaml", ".yml"):
        return SopsFile(file, names, f"it is a {file.suffix.removeprefix('.')} file")
    if any("." in name for name in names):
        return SopsFile(file, names, "it is nested")
    odd = [name for name in names if not _NAME.fullmatch(name)]
    return SopsFile(file, names, f"{odd[0]} is not a name of lower-case letters, digits and _" if odd else "")


def _names(node: yaml.MappingNode) -> list[str]:
    names: list[str] = []
    left: list[tuple[str, yaml.Node]] = [(str(k.value), v) for k, v in reversed(node.value) if k.value != "sops"]
    # Depth first and limited: nested aliases could otherwise mean any number of values.
    while left and len(names) < MOST_FILES * 10:
        name, below = left.pop()
        if isinstance(below, yaml.MappingNode):
            left += [(f"{name}.{key.value}", value) for key, value in reversed(below.value)]
        elif not re.search(r"_unencrypted$", name):
            names.append(name)
    return names


def in_dotenv(text: str) -> tuple[str, ...]:
    """Return the variables of a .env file that are named like secrets and have a value."""
    pairs = re.findall(r"^[ \t]*(?:export[ \t]+)?([A-Za-z_]\w*)[ \t]*[=:][ \t]*(\S?)", text, re.MULTILINE)
    return tuple(dict.fromkeys(name for name, value in pairs if value and SECRET_NAME.search(name)))


def declared(
    names: Sequence[str], mentioned: Collection[str], secrets: Mapping[str, Any], services: Mapping[str, Any]
) -> list[Declared]:
    """Return how the Compose files use the values of a SOPS file.

    Args:
        mentioned: variables that the Compose files mention.
        secrets: the section of the rendered document.
        services: as Compose renders them.
    """
    found = []
    for name in names:
        variable = next((one for one in (name.upper(), name) if one in mentioned), "")
        keys = [key for key, said in secrets.items() if PurePath(str(said.get("file") or "")).name == f"{name}.txt"]
        users = [
            service
            for service, body in services.items()
            if any(given.get("source") in keys for given in body.get("secrets") or [])
        ]
        given = "" if variable in ("", name.upper()) else variable
        found.append(Declared(name, given, bool(keys), bool(variable) or not keys, tuple(users)))
    return found
