"""Reads stack.yaml: YAML with line numbers, reporting every problem at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from conche import shallow_yaml
from conche.errors import Refused, did_you_mean
from conche.stack.model import FORMAT, Stack
from conche.stack.replaced import replaced
from conche.stack.shorthand import spelled_out
from conche.version import version

__all__ = ["FILE", "MOST_KEYS", "StackInvalid", "StackProblem", "keys_of", "load", "parse"]

FILE = "stack.yaml"

MOST_KEYS = 20_000
"""The most keys of a file with its aliases expanded; a few lines of nested aliases can mean billions."""

Path_ = tuple[str | int, ...]


@dataclass(frozen=True)
class StackProblem:
    """One thing wrong with a stack file.

    Attributes:
        line: from 1; 0 for the file as a whole.
        path: place in the file, for example `environments.dev.port`.
        message: the value found there and what was expected.
    """

    line: int
    path: str
    message: str

    def __str__(self) -> str:
        place = f"{FILE}:{self.line}" if self.line else FILE
        return f"{place}  {self.path or '(top)'}: {self.message}"


class StackInvalid(Refused):
    """The stack file is invalid; `problems` has everything that is wrong with it."""

    def __init__(self, problems: list[StackProblem], file: Path) -> None:
        count = "one problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__(
            "stack-invalid",
            f"{file} has {count}.",
            evidence=[str(problem) for problem in problems],
            next_command=f"edit {FILE}; every key is explained in: conche docs stack",
        )
        self.problems = tuple(problems)


class _StackLoader(yaml.SafeLoader):
    """A SafeLoader that raises a YAML error for a scalar that is not what it looks like, such as 2024-99-99."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError) as error:
            kind = node.tag.rpartition(":")[2]
            raise yaml.MarkedYAMLError(
                problem=f"{_short(node.value)} is not a valid {kind}", problem_mark=node.start_mark
            ) from error


def load(root: Path, missing: Callable[[str], None] | None = None) -> Stack:
    """Read `stack.yaml` in `root`.

    Args:
        missing: if given, files that it names may be missing, and this is called with a warning for each.

    Raises:
        StackInvalid: exit code 2, with every problem of the file.
        Refused: there is no such file, or it has a later format.
    """
    file = root / FILE
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise Refused(
            "stack-missing",
            f"No stack file could be read: {error.strerror}.",
            looked_at=[str(file)],
            next_command="conche init    # or write it as in: conche docs stack",
        ) from error
    except UnicodeDecodeError as error:
        raise StackInvalid([StackProblem(0, "", f"byte {error.start} is not UTF-8")], file) from error
    try:
        return parse(text, root=root)
    except StackInvalid as invalid:
        stack = _without_files(text) if missing else None
        if stack is None or missing is None:
            raise
        for problem in invalid.problems:
            missing(f"warning: {problem}")
        return stack


def _without_files(text: str) -> Stack | None:
    """Return the stack if missing files are all that is wrong with it; else None."""
    try:
        return parse(text)
    except StackInvalid:
        return None


def parse(text: str, *, root: Path | None = None) -> Stack:
    """Parse a stack file's text; with `root`, the files it names must exist below it."""
    file = (root / FILE) if root else Path(FILE)
    try:
        node = shallow_yaml.compose(text, _StackLoader)
        if not isinstance(node, yaml.MappingNode):
            problem = StackProblem(0, "", "expected a mapping with name and environments")
            raise StackInvalid([problem], file)
        lines, duplicates = _walk(node)
        document = _StackLoader("").construct_document(node)
        _require_known(document, file)
        content = json.dumps(spelled_out(document), default=str)
    except yaml.YAMLError as error:
        raise StackInvalid([_syntax(error, text)], file) from error
    except RecursionError:
        raise StackInvalid(
            [StackProblem(0, "", "an alias is inside its own anchor, or aliases and brackets are nested too deeply")],
            file,
        ) from None
    except (TypeError, ValueError) as error:
        raise StackInvalid([StackProblem(0, "", f"cannot be written as JSON: {error}")], file) from error
    try:
        stack = Stack.model_validate_json(content, context={"root": root})
    except ValidationError as error:
        details = error.errors(include_url=False)
        # A list whose only entry is wrong is also reported as empty; that second problem helps nobody.
        wrong = {detail["loc"][:-1] for detail in details if detail["loc"]}
        problems = [
            _problem(detail, lines) for detail in details if detail["type"] != "too_short" or detail["loc"] not in wrong
        ]
        raise StackInvalid(sorted(duplicates + problems, key=lambda problem: problem.line), file) from None
    if duplicates:
        raise StackInvalid(duplicates, file)
    return stack


def _require_known(document: Any, file: Path) -> None:
    """Ensure that this version reads the file's format: it cannot judge the keys of a later one."""
    number = document.get("format") if isinstance(document, Mapping) else None
    if isinstance(number, int) and number > FORMAT:
        raise Refused(
            "stack-newer",
            f"{file} is of format {number}. This is Conche {version()}, which reads format {FORMAT}.",
            looked_at=[str(file)],
            next_command="use the version of Conche that the file was written for",
        )


def _syntax(error: yaml.YAMLError, text: str) -> StackProblem:
    mark = getattr(error, "problem_mark", None)
    line = mark.line + 1 if mark else 0
    source = text.splitlines()[line - 1] if mark and line <= len(text.splitlines()) else ""
    if source[: len(source) - len(source.lstrip())].count("\t"):
        return StackProblem(line, "", "a tab indents this line; YAML requires spaces")
    return StackProblem(line, "", f"not YAML: {getattr(error, 'problem', None) or error}")


def _walk(root: yaml.MappingNode) -> tuple[dict[Path_, int], list[StackProblem]]:
    """Return the line of every path, and a problem for every key that is repeated in its mapping."""
    lines: dict[Path_, int] = {(): 0}
    duplicates: list[StackProblem] = []
    twice: set[Path_] = set()
    for path, key in keys_of(root):
        line = key.start_mark.line + 1
        if path in lines and path[:-1] not in twice:
            twice.add(path)
            duplicates.append(StackProblem(line, _dotted(path), f"duplicate key; first on line {lines[path]}"))
        lines.setdefault(path, line)
        if len(lines) > MOST_KEYS:
            raise RecursionError
    return lines, duplicates


def keys_of(node: yaml.Node, path: Path_ = ()) -> Iterator[tuple[Path_, yaml.Node]]:
    """Yield each key with its path, and each entry of a list, in the file's order; aliases are followed."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            below = (*path, str(key.value))
            yield below, key
            yield from keys_of(value, below)
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            yield (*path, number), value
            yield from keys_of(value, (*path, number))


def _dotted(path: Path_) -> str:
    return ".".join(str(part) for part in path)


_EXPECTED = {
    "missing": "is missing; expected {description}",
    "extra_forbidden": "unknown key{hint}",
    "string_pattern_mismatch": "got {input}, expected text that matches {pattern}",
    "tuple_type": "got {input}, expected a list",
    "model_type": "got {input}, expected a mapping",
    "dict_type": "got {input}, expected a mapping",
    "mapping_type": "got {input}, expected a mapping",
    "too_short": "got {input}, expected at least {min_length}",
    "absent": "got {input}, expected {message}",
    "port_twice": "expected {message}",
    "project_twice": "expected {message}",
    "driver_fields": "expected {message}",
    "no_such_environment": "expected {message}",
    "json_invalid": "{message}",
}


def _problem(detail: ErrorDetails, lines: dict[Path_, int]) -> StackProblem:
    path = tuple(part for part in detail["loc"] if part != "[key]")
    words = _EXPECTED.get(detail["type"], "got {input}, expected {message}").format(
        input=_short(detail["input"]),
        message=_plainly(detail["msg"]),
        pattern=detail.get("ctx", {}).get("pattern", ""),
        min_length=detail.get("ctx", {}).get("min_length", ""),
        hint=path and _unknown(path),
        description=path and _description(path),
    )
    return StackProblem(_line(path, lines), _dotted(path), words)


def _plainly(message: str) -> str:
    return message.removeprefix("Input should be ").removeprefix("Value error, ")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _line(path: Path_, lines: dict[Path_, int]) -> int:
    while path not in lines:
        path = path[:-1]
    return lines[path]


def _unknown(path: Path_) -> str:
    if gone := replaced(path):
        return f"; {gone.instead}" + (": `conche upgrade` writes it so" if gone.name else "")
    fields = _model_at(path[:-1]).model_fields
    hint = did_you_mean(str(path[-1]), fields)
    return (hint and f".{hint}") or f"; known: {', '.join(fields)}"


def _description(path: Path_) -> str:
    field = _model_at(path[:-1]).model_fields.get(str(path[-1]))
    return field.description or "a value" if field else "a value"


def _model_at(path: Path_) -> type[BaseModel]:
    """Return the model of the section at a path, following the fields; in a mapping by name, any name matches."""
    model: type[BaseModel] = Stack
    entries: type[BaseModel] | None = None
    for part in path:
        if entries is not None:
            model, entries = entries, None
            continue
        field = model.model_fields.get(str(part))
        found = [kind for kind in _kinds(field.annotation if field else None) if issubclass(kind, BaseModel)]
        if not found:
            break
        if field is not None and get_origin(field.annotation) is Mapping:
            entries = found[0]
        else:
            model = found[0]
    return model


def _kinds(annotation: Any) -> list[type]:
    """Return the classes in an annotation, at any depth."""
    if isinstance(annotation, type) and not get_args(annotation):
        return [annotation]
    return [kind for argument in get_args(annotation) for kind in _kinds(argument)]
