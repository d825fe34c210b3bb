"""The variables that Compose files ask for: by `$` or by a bare name, there and in the files that these refer to."""

from __future__ import annotations

import contextlib
import re
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path

import yaml

from conche import shallow_yaml
from conche.errors import Refused
from conche.init.files import MOST_FILES, read

__all__ = ["required", "variables"]

_BARE = ("environment", "args")
"""Keys under which a name without a value asks for the variable of that name."""

_FURTHER = ("include", "extends", "env_file")
"""Keys that name further files in which Compose interpolates variables."""


def variables(root: Path, files: Iterable[Path]) -> frozenset[str]:
    """Return the variables that files ask for, as far as they can be read."""
    names: set[str] = set()
    for text, node in _every(root, files):
        names.update(re.findall(r"(?<!\$)\$\{?([A-Za-z_]\w*)", text))
        names.update(name for key, value in _below(node) if key in _BARE for name in _bare(value))
    return frozenset(names)


def required(root: Path, files: Iterable[Path]) -> frozenset[str]:
    """Return the variables without which Compose rejects the files: those with `:?` or `?`."""
    found = (re.findall(r"(?<!\$)\$\{([A-Za-z_]\w*):?\?", text) for text, _ in _every(root, files))
    return frozenset(name for names in found for name in names)


def _every(root: Path, files: Iterable[Path]) -> Iterator[tuple[str, yaml.Node | None]]:
    """Yield the text and content of files and of those that they include or extend, each once."""
    left, known = deque(root / file for file in files), set[Path]()
    while left and len(known) < MOST_FILES:
        file = left.popleft()
        if file in known:
            continue
        known.add(file)
        with contextlib.suppress(Refused):
            text = read(root, file)
            node = _content(text)
            yield text, node
            left.extend(file.parent / one for one in _further(node) if "$" not in one)


def _content(text: str) -> yaml.Node | None:
    try:
        return shallow_yaml.compose(text)
    except (yaml.YAMLError, RecursionError):
        return None


def _below(node: yaml.Node | None) -> Iterator[tuple[str, yaml.Node]]:
    """Yield every key with its value, at any depth; what aliases repeat only once."""
    left, known = [node], set[int]()
    while left:
        one = left.pop()
        if not isinstance(one, yaml.CollectionNode) or id(one) in known:
            continue
        known.add(id(one))
        if isinstance(one, yaml.MappingNode):
            yield from ((str(key.value), value) for key, value in one.value)
            left.extend(value for _, value in one.value)
        else:
            left.extend(one.value)


def _bare(node: yaml.Node, depth: int = 0) -> Iterator[str]:
    """Yield the names without a value in a list or mapping, or the one of a secret or config from a variable."""
    if isinstance(node, yaml.ScalarNode):
        yield from re.findall(r"^[A-Za-z_]\w*$", node.value)
    elif isinstance(node, yaml.SequenceNode):
        yield from (name for one in node.value if isinstance(one, yaml.ScalarNode) for name in _bare(one))
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if str(key.value) == "<<" and not depth:
                merged = value.value if isinstance(value, yaml.SequenceNode) else [value]
                yield from (name for one in merged for name in _bare(one, depth + 1))
            elif isinstance(value, yaml.ScalarNode) and value.tag.endswith(":null"):
                yield from _bare(key)


def _further(node: yaml.Node | None) -> Iterator[str]:
    for key, value in _below(node):
        if key in _FURTHER:
            yield from _paths(value)


def _paths(node: yaml.Node) -> Iterator[str]:
    """Yield the files that `include`, `extends` or `env_file` names in any of its forms."""
    if isinstance(node, yaml.ScalarNode):
        yield str(node.value)
    elif isinstance(node, yaml.SequenceNode):
        yield from (path for one in node.value for path in _paths(one))
    elif isinstance(node, yaml.MappingNode):
        yield from (path for key, value in node.value if key.value in ("path", "file") for path in _paths(value))
