"""The `env_file:`s that a fresh clone lacks: git ignores them, and without them Compose rejects the Compose files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import yaml

from conche.errors import Refused
from conche.init.files import read

__all__ = ["missing", "without"]


def missing(root: Path, files: Sequence[Path]) -> dict[str, tuple[str, ...]]:
    """Return service -> its env files that are not there, as they are written; only what Compose requires.

    Args:
        files: relative to the repository, in the order in which Compose merges them.
    """
    base = (root / files[0]).parent
    found: dict[str, tuple[str, ...]] = {}
    for file in files:
        for service, body in _pairs(_get(_tree(root, file), "services")):
            lacking = [one for one in _required(_get(body, "env_file")) if "$" not in one and not _there(base, one)]
            if lacking:
                found[service] = (*found.get(service, ()), *lacking)
    return found


def _there(base: Path, written: str) -> bool:
    """Return whether a file exists where Compose looks for it; Compose cannot enter a closed folder either."""
    try:
        return (base / Path(written).expanduser()).exists()
    except (OSError, RuntimeError):  # such as a name longer than the file system takes, or nobody's home
        return False


def without(services: Mapping[str, Sequence[str]]) -> str:
    """Return a Compose file that, merged after the others, takes the env files from these services."""
    return "services:\n" + "".join(f"  {json.dumps(name)}: {{env_file: !reset []}}\n" for name in services)


def _tree(root: Path, file: Path) -> yaml.Node | None:
    try:
        return yaml.compose(read(root, file), Loader=yaml.SafeLoader)
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
