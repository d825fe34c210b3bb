"""Refuses files that Compose would read for minutes, or into all memory, before it reads them.

It reads not only the files that it is given, but also those that these include, extend, or name as `env_file`.
Sources: https://docs.docker.com/reference/compose-file/include/ and .../services/#extends
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import yaml

from conche import shallow_yaml
from conche.errors import Refused
from conche.texts import read_text, require_small

__all__ = ["refuse_bomb", "refuse_bombs", "refuse_bombs_beside"]

MOST_VALUES = 1_000_000
"""Most values of a YAML file once its aliases are expanded."""

_NAMES_OTHERS = re.compile(r"\b(?:include|extends|env_file)\b")

_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)(?::?-([^}]*))?[^}]*\})")


def refuse_bombs(root: Path, files: Sequence[Path], variables: Mapping[str, str]) -> None:
    """Refuse Compose files, or files that are read with them, that are too large or would be.

    Args:
        files: absolute; the first one's folder is that of the project.
        variables: those that paths in the files may name.

    Raises:
        Refused: one of them has more than 1 MiB, more than a million values, or is a Compose file that is not UTF-8.
    """
    for file in files:
        name = _called(file, root)
        refuse_bomb(name, read_text(file, name))
    refuse_bombs_beside(root, files, variables)


def refuse_bombs_beside(root: Path, files: Sequence[Path], variables: Mapping[str, str]) -> None:
    """Do so for the files that are read with these, which have been looked at."""
    seen, left = {file.resolve() for file in files}, [*files]
    while left:
        file = left.pop()
        text = read_text(file, _called(file, root))
        if not _NAMES_OTHERS.search(text):
            continue
        # Compose takes a path from the folder of the project or of the file, depending on who names it in which file.
        folders = {files[0].parent, file.parent}
        for other, is_compose in _named(text, folders, variables):
            if (there := other.resolve()) in seen:
                continue
            seen.add(there)
            name = _called(other, root)
            if is_compose:
                refuse_bomb(name, read_text(other, name))
                left.append(other)
            else:
                require_small(other, name)


def refuse_bomb(name: str, text: str) -> None:
    """Refuse short YAML that expands to a great deal: Compose expands every alias, and would never end.

    Raises:
        Refused: with its aliases expanded it has more than a million values.
    """
    if not ("&" in text and "*" in text):
        return
    try:
        node = shallow_yaml.compose(text)
        size = _written_out(node, {}) if node is not None else 0
    except (yaml.YAMLError, RecursionError):
        return  # Compose explains better what is wrong with it
    if size > MOST_VALUES:
        raise Refused(
            "text-too-large",
            f"{name} has more than {MOST_VALUES} values once its aliases are expanded.",
            looked_at=[name],
            next_command="look for anchors (&) whose aliases (*) contain one another",
        )


def _written_out(node: yaml.Node, known: dict[int, int]) -> int:
    """Count the values of a node with every alias expanded, visiting each node once."""
    if id(node) not in known:
        known[id(node)] = MOST_VALUES  # an alias inside its own anchor has no end
        below = (
            [part for one in node.value for part in (one if isinstance(one, tuple) else (one,))]
            if isinstance(node, yaml.CollectionNode)
            else []
        )
        known[id(node)] = 1 + sum(_written_out(one, known) for one in below)
    return known[id(node)]


def _named(text: str, folders: Collection[Path], variables: Mapping[str, str]) -> Iterator[tuple[Path, bool]]:
    """Yield the files that a Compose file names and that are there, and whether each is a Compose file itself."""
    try:
        root = shallow_yaml.compose(text)
    except (yaml.YAMLError, RecursionError):
        return
    bodies = [body for services in _below(root, "services") for body in _values(services)]
    included = [one for said in _below(root, "include") for one in _listed(said)]
    extended = [said for body in bodies for said in _below(body, "extends")]
    given = [one for body in (*bodies, *included) for said in _below(body, "env_file") for one in _listed(said)]

    moved = _paths(included, "project_directory", variables)
    bases = [*folders, *(folder / path for path in moved for folder in folders)]
    compose_files = [*_paths(included, "path", variables), *_paths(extended, "file", variables)]
    for paths, is_compose in ((compose_files, True), (_paths(given, "path", variables), False)):
        for path in dict.fromkeys(paths):
            yield from ((base / path, is_compose) for base in bases if _is_file(base / path))


def _paths(nodes: Iterable[yaml.Node], key: str, variables: Mapping[str, str]) -> Iterator[str]:
    """Yield the paths that nodes are, or that they have under a key."""
    for node in nodes:
        for said in [node] if isinstance(node, yaml.ScalarNode) else _below(node, key):
            for one in _listed(said):
                if isinstance(one, yaml.ScalarNode):
                    yield _VARIABLE.sub(lambda found: variables.get(found[1] or found[2]) or found[3] or "", one.value)


def _listed(node: yaml.Node) -> list[yaml.Node]:
    return list(node.value) if isinstance(node, yaml.SequenceNode) else [node]


def _values(node: yaml.Node) -> list[yaml.Node]:
    return [value for _, value in node.value] if isinstance(node, yaml.MappingNode) else []


def _below(node: yaml.Node | None, key: str, depth: int = 0) -> list[yaml.Node]:
    """Return what a mapping has under a key, also in mappings that it takes over by `<<`."""
    if not isinstance(node, yaml.MappingNode) or depth > shallow_yaml.DEEPEST:
        return []
    merged = [one for name, value in node.value if name.value == "<<" for one in _listed(value)]
    own = [value for name, value in node.value if name.value == key]
    return own + [found for one in merged for found in _below(one, key, depth + 1)]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # such as a name longer than the file system takes
        return False


def _called(file: Path, root: Path) -> str:
    return str(file.relative_to(root)) if file.is_relative_to(root) else str(file)
