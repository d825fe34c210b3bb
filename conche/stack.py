"""stack.yaml -> `Stack`: one typed, frozen model, read in one place.

A bad file is refused with every problem at once, each with its line, its path in the file, the value that stands there,
what was expected and, where one is close, the word that was probably meant. Sections of other namespaces slot in as
further fields of `Stack`.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from conche.errors import Refused, did_you_mean
from conche.files import write_atomic

__all__ = [
    "FILE",
    "Base",
    "Environment",
    "Image",
    "Problem",
    "Stack",
    "StackInvalid",
    "load",
    "parse",
    "schema",
    "write_schema",
]

FILE = "stack.yaml"

MOST_KEYS = 20_000
"""Keys of a file with its aliases written out; a few lines of nested aliases can mean billions."""

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9]*([-_][a-z0-9]+)*$", max_length=63)]
Repository = Annotated[str, Field(pattern=r"^[a-z0-9]+([._/-][a-z0-9]+)*$")]
RegistryHost = Annotated[str, Field(pattern=r"^[A-Za-z0-9.-]+(:[0-9]{1,5})?$")]
Tag = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$")]
Port = Annotated[int, Field(ge=1, le=65535)]
HttpUrl = Annotated[str, Field(pattern=r"^https?://[^\s]+$")]
EngineAddress = Annotated[str, Field(pattern=r"^(ssh|tcp|unix|npipe)://[^\s]+$")]
Path_ = tuple[str | int, ...]


def _present(kind: Literal["file", "folder"]) -> AfterValidator:
    """A path that is relative to the stack file and there; existence is only looked at where the root is known."""

    def check(path: Path, validation: ValidationInfo) -> Path:
        root: Path | None = (validation.context or {}).get("root")
        if root is None:
            return path
        there = root / path
        with contextlib.suppress(OSError):  # such as a name longer than the file system takes
            if there.is_file() if kind == "file" else there.is_dir():
                return path
        raise PydanticCustomError("absent", "a {kind} that exists.{hint}", {"kind": kind, "hint": _near(there)})

    return AfterValidator(check)


def _near(path: Path) -> str:
    try:
        return did_you_mean(path.name, [entry.name for entry in path.parent.iterdir()])
    except (OSError, ValueError):
        return ""


FilePath = Annotated[Path, _present("file")]
FolderPath = Annotated[Path, _present("folder")]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Image(_Section):
    """An image this repository builds."""

    dockerfile: FilePath = Field(description="Dockerfile, relative to stack.yaml")
    context: FolderPath = Field(default=Path(), description="build context, relative to stack.yaml")
    repository: Repository = Field(description="name in the registry, without host and tag")


class Base(_Section):
    """How a base image is made from Debian's packages on a host that can pull it from nowhere."""

    suite: Name = Field(description="Debian release, for example bookworm")
    packages: tuple[str, ...] = Field(description="packages it contains beside Debian's essential ones")


class Environment(_Section):
    """A set of services that run together: dev, prod, git."""

    compose: tuple[FilePath, ...] = Field(min_length=1, description="Compose files, in the order Compose merges them")
    project: Name | None = Field(default=None, description="Compose project; default: <stack name>-<environment>")
    tag: Tag = Field(default="latest", description="tag of this stack's images in this environment")
    branch: str | None = Field(default=None, description="git branch that is deployed here")
    port: Port | None = Field(default=None, description="published port of the application")
    publish: str = Field(default="127.0.0.1", description="address on which ports are published")
    health: HttpUrl | None = Field(default=None, description="URL that answers 2xx when the application works")
    protected: bool = Field(default=False, description="destructive tasks want the environment's name typed")
    engine: EngineAddress | None = Field(
        default=None,
        description="address of the Docker engine, for example ssh://deploy@host; default: the current one",
    )


class Stack(_Section):
    """What stack.yaml says."""

    name: Name = Field(description="name of the stack; prefix of its Compose projects")
    registry: RegistryHost = Field(description="host[:port] of the private registry")
    images: Mapping[Name, Image] = Field(default_factory=dict, description="images built from this repository")
    bases: Mapping[str, Base] = Field(
        default_factory=dict, description="base images that images.base can make, by the name a Dockerfile asks for"
    )
    environments: Mapping[Name, Environment] = Field(min_length=1, description="environments, by name")

    @model_validator(mode="after")
    def _ports_differ(self) -> Stack:
        taken: dict[tuple[str | None, int], str] = {}
        for name, environment in self.environments.items():
            if environment.port is None:
                continue
            other = taken.setdefault((environment.engine, environment.port), name)
            if other != name:
                raise PydanticCustomError(
                    "port_twice",
                    "another port: environments {other} and {name} both publish {port} on one engine",
                    {"other": other, "name": name, "port": environment.port},
                )
        return self

    def project(self, environment: str) -> str:
        """The Compose project of an environment."""
        return self.environments[environment].project or f"{self.name}-{environment}"

    def reference(self, image: str, environment: str) -> str:
        """The full reference of an image in an environment: registry/repository:tag."""
        return f"{self.registry}/{self.images[image].repository}:{self.environments[environment].tag}"

    def image_of(self, reference: str, environment: str) -> str | None:
        """The image of this stack that a Compose service means by `reference`, if any."""
        return next((name for name in self.images if self.reference(name, environment) == reference), None)


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a stack file.

    Attributes:
        line: from 1; 0 where the file as a whole is meant.
        path: where in the file, for example `environments.dev.port`.
        message: the value that stands there and what was expected.
    """

    line: int
    path: str
    message: str

    def __str__(self) -> str:
        place = f"{FILE}:{self.line}" if self.line else FILE
        return f"{place}  {self.path or '(top)'}: {self.message}"


class StackInvalid(Refused):
    """The stack file is missing or wrong; `problems` has everything that is wrong with it."""

    def __init__(self, problems: list[Problem], file: Path) -> None:
        count = "one problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__(
            "stack-invalid",
            f"{file} has {count}.",
            evidence=[str(problem) for problem in problems],
            next_command=f"edit {FILE}; every key is explained in docs/reference/stack.md",
        )
        self.problems = tuple(problems)


class _Loader(yaml.SafeLoader):
    """SafeLoader, with a YAML error where a scalar is not what it looks like, such as the date 2024-99-99."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError) as error:
            kind = node.tag.rpartition(":")[2]
            raise yaml.MarkedYAMLError(
                problem=f"{_short(node.value)} is no {kind}", problem_mark=node.start_mark
            ) from error


def load(root: Path) -> Stack:
    """Read `stack.yaml` in `root`.

    Raises:
        StackInvalid: exit code 2, with every problem of the file.
        Refused: there is no such file.
    """
    file = root / FILE
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise Refused(
            "stack-missing",
            f"No stack file could be read: {error.strerror}.",
            looked_at=[str(file)],
            next_command="create stack.yaml as docs/reference/stack.md shows",
        ) from error
    except UnicodeDecodeError as error:
        raise StackInvalid([Problem(0, "", f"byte {error.start} is not UTF-8")], file) from error
    return parse(text, root=root)


def parse(text: str, *, root: Path | None = None) -> Stack:
    """The model of a stack file's text; with `root`, the files it names must exist below it."""
    file = (root / FILE) if root else Path(FILE)
    try:
        node = yaml.compose(text, Loader=_Loader)
        if not isinstance(node, yaml.MappingNode):
            problem = Problem(0, "", "expected a mapping with name, registry, images and environments")
            raise StackInvalid([problem], file)
        lines, duplicates = _walk(node)
        content = json.dumps(_Loader("").construct_document(node), default=str)
    except yaml.YAMLError as error:
        raise StackInvalid([_syntax(error, text)], file) from error
    except RecursionError:
        raise StackInvalid(
            [Problem(0, "", "an alias stands inside its own anchor, or aliases and brackets nest too deep")], file
        ) from None
    except (TypeError, ValueError) as error:
        raise StackInvalid([Problem(0, "", f"cannot be written as JSON: {error}")], file) from error
    try:
        stack = Stack.model_validate_json(content, context={"root": root})
    except ValidationError as error:
        details = error.errors(include_url=False)
        # A list whose only entry is wrong counts as empty too; that second complaint helps nobody.
        wrong = {detail["loc"][:-1] for detail in details if detail["loc"]}
        problems = [
            _problem(detail, lines) for detail in details if detail["type"] != "too_short" or detail["loc"] not in wrong
        ]
        raise StackInvalid(sorted(duplicates + problems, key=lambda problem: problem.line), file) from None
    if duplicates:
        raise StackInvalid(duplicates, file)
    return stack


def schema() -> dict[str, Any]:
    """The JSON Schema of a stack file, for editors; checked in as conche/stack.schema.json."""
    model = Stack.model_json_schema()
    for section in model["properties"].values():
        if "patternProperties" in section:
            section["additionalProperties"] = False  # a name that breaks the pattern is no name
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **model}


def write_schema(folder: Path = Path(__file__).parent) -> bool:
    """Write the schema beside this module; returns whether it changed."""
    return write_atomic(folder / "stack.schema.json", (json.dumps(schema(), indent=2) + "\n").encode())


def _syntax(error: yaml.YAMLError, text: str) -> Problem:
    mark = getattr(error, "problem_mark", None)
    line = mark.line + 1 if mark else 0
    source = text.splitlines()[line - 1] if mark and line <= len(text.splitlines()) else ""
    if source[: len(source) - len(source.lstrip())].count("\t"):
        return Problem(line, "", "a tab indents this line; YAML wants spaces")
    return Problem(line, "", f"not YAML: {getattr(error, 'problem', None) or error}")


def _walk(root: yaml.MappingNode) -> tuple[dict[Path_, int], list[Problem]]:
    """The line of every path, and every key that stands twice in its mapping."""
    lines: dict[Path_, int] = {(): 0}
    duplicates: list[Problem] = []
    twice: set[Path_] = set()
    for path, key in _keys(root, ()):
        line = key.start_mark.line + 1
        if path in lines and path[:-1] not in twice:
            twice.add(path)
            duplicates.append(Problem(line, _dotted(path), f"stands twice; first on line {lines[path]}"))
        lines.setdefault(path, line)
        if len(lines) > MOST_KEYS:
            raise RecursionError
    return lines, duplicates


def _keys(node: yaml.Node, path: Path_) -> Iterator[tuple[Path_, yaml.Node]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            below = (*path, str(key.value))
            yield below, key
            yield from _keys(value, below)
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            yield (*path, number), value
            yield from _keys(value, (*path, number))


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
    "json_invalid": "{message}",
}


def _problem(detail: ErrorDetails, lines: dict[Path_, int]) -> Problem:
    path = tuple(part for part in detail["loc"] if part != "[key]")
    words = _EXPECTED.get(detail["type"], "got {input}, expected {message}").format(
        input=_short(detail["input"]),
        message=_plainly(detail["msg"]),
        pattern=detail.get("ctx", {}).get("pattern", ""),
        min_length=detail.get("ctx", {}).get("min_length", ""),
        hint=path and _unknown(path),
        description=path and _description(path),
    )
    return Problem(_line(path, lines), _dotted(path), words)


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
    fields = _model_at(path[:-1]).model_fields
    hint = did_you_mean(str(path[-1]), fields)
    return (hint and f".{hint}") or f"; known: {', '.join(fields)}"


def _description(path: Path_) -> str:
    field = _model_at(path[:-1]).model_fields.get(str(path[-1]))
    return field.description or "a value" if field else "a value"


def _model_at(path: Path_) -> type[BaseModel]:
    """The model of the section at a path; sections stand in mappings by name below the top."""
    sections: dict[str, type[BaseModel]] = {"images": Image, "bases": Base, "environments": Environment}
    return sections.get(str(path[0]), Stack) if len(path) >= 2 else Stack
