"""The `env_file:`s that a fresh clone lacks: git ignores them, and without them Compose rejects the Compose files."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import yaml

from conche import shallow_yaml
from conche.errors import Refused
from conche.init.files import read

__all__ = ["example_of", "missing", "without"]

EXAMPLES = frozenset({"example", "examples", "sample", "template", "tmpl", "dist", "default", "defaults"})
"""Words in the names of files that are there to be copied."""


def missing(root: Path, files: Sequence[Path]) -> dict[str, tuple[str, ...]]:
    """Return service -> its env files that are not there, as seen from the repository; only what Compose requires.

    Args:
        files: relative to the repository, in the order in which Compose merges them.
    """
    base = (root / files[0]).parent
    found: dict[str, tuple[str, ...]] = {}
    for file in files:
        for service, body in _pairs(_get(_tree(root, file), "services")):
            lacking = [one for one in _required(_get(body, "env_file")) if "$" not in one and not _there(base, one)]
            if lacking:
                found[service] = (*found.get(service, ()), *(_seen_from(root, base, one) for one in lacking))
    return found


def _seen_from(root: Path, base: Path, written: str) -> str:
    return written if written.startswith(("/", "~")) else os.path.relpath(base / written, root)


def _there(base: Path, written: str) -> bool:
    """Return whether a file exists where Compose looks for it; Compose cannot enter a closed folder either."""
    try:
        return (base / Path(written).expanduser()).exists()
    except (OSError, RuntimeError):  # such as a name longer than the file system takes, or nobody's home
        return False


def example_of(root: Path, written: str) -> str:
    """Return the file beside a missing one that is there to be copied in its place, such as `.env.example` of `.env`.

    Args:
        written: the missing file, relative to the repository.

    Returns:
        It, relative to the repository as well; empty if there is none.
    """
    wanted = _parts(Path(written).name)
    try:
        beside = sorted(one.name for one in (root / written).parent.iterdir() if one.is_file())
    except OSError:
        return ""
    found = (name for name in beside if {*(parts := _parts(name))} & EXAMPLES and _plain(parts) == wanted)
    return next((str(Path(written).with_name(name)) for name in found), "")


def _parts(name: str) -> list[str]:
    return [part for part in re.split(r"[.\-_]", name.lower()) if part]


def _plain(parts: Sequence[str]) -> list[str]:
    return [part for part in parts if part not in EXAMPLES]


def without(services: Mapping[str, Sequence[str]]) -> str:
    """Return a Compose file that, merged after the others, takes the env files from these services."""
    return "services:\n" + "".join(f"  {json.dumps(name)}: {{env_file: !reset []}}\n" for name in services)


def _tree(root: Path, file: Path) -> yaml.Node | None:
    try:
        return shallow_yaml.compose(read(root, file))
    except (Refused, yaml.YAMLError, RecursionError):
        return None


def _pairs(node: yaml.Node | None) -> Iterator[tuple[str, yaml.Node]]:
    if isinstance(node, yaml.MappingNode):
        yield from ((str(key.value), value) for key, value in node.value)


def _get(node: yaml.Node | None, key: str) -> yaml.Node | None:
    """Return a key's value in a mapping, or in one that it takes over by `<<`."""
    pairs = dict(_pairs(node))
    if key in pairs or "<<" not in pairs:
        return pairs.get(key)
    merged = pairs["<<"]
    bodies = merged.value if isinstance(merged, yaml.SequenceNode) else [merged]
    return next((found for body in bodies if (found := dict(_pairs(body)).get(key)) is not None), None)


def _required(node: yaml.Node | None) -> Iterator[str]:
    for one in node.value if isinstance(node, yaml.SequenceNode) else [node]:
        said = dict(_pairs(one))
        path = said.get("path") if said else one
        optional = "required" in said and said["required"].value == "false"
        if isinstance(path, yaml.ScalarNode) and path.value and not optional:
            yield str(path.value)
