"""Read workflow files: YAML with line numbers, not yet interpreted."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from conche import shallow_yaml
from conche.errors import Refused

__all__ = ["Where", "WorkflowFile", "WorkflowInvalid", "parse", "read_all", "read_each"]

Where = tuple[str | int, ...]
"""The path to a value: keys and positions from the top."""


MOST_VALUES = 20_000
"""Most values in a file once its aliases are expanded; a few lines of nested aliases can mean billions."""


class WorkflowInvalid(Refused):
    """A workflow file is not YAML, or cannot be read."""


@dataclass(frozen=True)
class WorkflowFile:
    """One workflow file.

    Attributes:
        file: its path as people type it, relative to stack.yaml.
        content: mappings, lists and scalars; keys are always text, so `on` is not read as true.
        lines: the line of each value, from 1.
    """

    file: str
    text: str
    content: Any
    lines: Mapping[Where, int]

    def line(self, where: Where) -> int:
        """Return the line of a value, or of the nearest thing around it."""
        while where and where not in self.lines:
            where = where[:-1]
        return self.lines.get(where, 1)


def read_all(root: Path, folder: Path) -> list[WorkflowFile]:
    """Read every `*.yml` and `*.yaml` of a folder, by name.

    Raises:
        Refused: there is no such folder or no file in it.
        WorkflowInvalid: a file is not YAML, with line and column.
    """
    documents, broken = read_each(root, folder)
    for error in broken.values():
        raise error
    return documents


def read_each(root: Path, folder: Path) -> tuple[list[WorkflowFile], dict[str, WorkflowInvalid]]:
    """Read every `*.yml` and `*.yaml` of a folder; return the documents, and by file the errors of the unreadable ones.

    Raises:
        Refused: there is no such folder or no file in it.
    """
    files = sorted(file for ending in ("*.yml", "*.yaml") for file in (root / folder).glob(ending))
    if not files:
        raise Refused(
            "no-workflows",
            f"There is no workflow in {folder}.",
            looked_at=[str(root / folder)],
            next_command="write one as in `conche docs pipeline`, or set ci.workflows in stack.yaml",
        )
    documents, broken = [], {}
    for file in files:
        name = os.path.relpath(file, root)
        try:
            documents.append(_read(file, name))
        except WorkflowInvalid as error:
            broken[name] = error
    return documents, broken


def _read(file: Path, name: str) -> WorkflowFile:
    try:
        return parse(file.read_text(encoding="utf-8"), name)
    except OSError as error:
        raise WorkflowInvalid("workflow-invalid", f"{name} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise WorkflowInvalid("workflow-invalid", f"{name}: byte {error.start} is not UTF-8.") from error


def parse(text: str, name: str) -> WorkflowFile:
    """Parse a workflow's text."""
    try:
        node = shallow_yaml.compose(text)
        lines: dict[Where, int] = {}
        content = None if node is None else _build(node, (), lines, yaml.SafeLoader(""))
    except yaml.YAMLError as error:
        raise _syntax(error, name) from error
    except RecursionError:
        raise WorkflowInvalid("workflow-invalid", f"{name}: an alias is inside its own anchor.") from None
    return WorkflowFile(name, text, content, lines)


def _syntax(error: yaml.YAMLError, name: str) -> WorkflowInvalid:
    mark = getattr(error, "problem_mark", None)
    place = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
    return WorkflowInvalid(
        "workflow-invalid",
        f"{place} is not YAML: {getattr(error, 'problem', None) or error}.",
        looked_at=[place],
        evidence=(mark.get_snippet() or "").splitlines() if mark else (),
        next_command=f"correct {name}, then: invoke ci.validate",
    )


def _build(node: yaml.Node, where: Where, lines: dict[Where, int], loader: yaml.SafeLoader) -> Any:
    """Build the value of a node; a value that has a key gets the line of its key."""
    lines.setdefault(where, node.start_mark.line + 1)
    if len(lines) > MOST_VALUES:
        raise yaml.MarkedYAMLError(problem="too large once its aliases are expanded", problem_mark=node.start_mark)
    if isinstance(node, yaml.MappingNode):
        content = {}
        for key, value in _pairs(node):
            lines[(*where, key.value)] = key.start_mark.line + 1
            content[key.value] = _build(value, (*where, key.value), lines, loader)
        return content
    if isinstance(node, yaml.SequenceNode):
        return [_build(value, (*where, number), lines, loader) for number, value in enumerate(node.value)]
    try:
        return loader.construct_object(node)
    except ValueError:  # such as the date 2024-99-99
        return node.value


def _pairs(node: yaml.MappingNode) -> Iterator[tuple[yaml.ScalarNode, yaml.Node]]:
    for key, value in node.value:
        if key.value == "<<" and isinstance(value, yaml.MappingNode):
            yield from _pairs(value)
        elif isinstance(key, yaml.ScalarNode):
            yield key, value
