"""What a workflow's repository provides: runners' labels, branches, secrets, Nox sessions, tasks."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from conche.ci.workflows.invoked import CommandLine
from conche.ci.workflows.runners import runners
from conche.stack import Stack

__all__ = ["AUTOMATIC", "Surroundings", "sessions", "surroundings"]

AUTOMATIC = frozenset({"GITHUB_TOKEN", "GITEA_TOKEN", "FORGEJO_TOKEN"})
"""Secrets that a server gives to each run by itself."""


@dataclass(frozen=True)
class Surroundings:
    """What a workflow can refer to.

    Attributes:
        labels: of all runners; None if no runner is known.
        environments: those in stack.yaml.
        branches: environments by the branch that is deployed there.
        secrets: Actions secrets that runs will have.
        sessions: of the noxfile, with `*` for what cannot be read without running it; None without a noxfile.
        read: parses a command line as Invoke does.
    """

    labels: frozenset[str] | None = None
    environments: frozenset[str] = frozenset()
    branches: Mapping[str, str] = field(default_factory=dict)
    secrets: frozenset[str] = frozenset()
    sessions: frozenset[str] | None = None
    read: Callable[[Sequence[str]], CommandLine] = lambda _: CommandLine()


def surroundings(root: Path, stack: Stack, read: Callable[[Sequence[str]], CommandLine]) -> Surroundings:
    """Collect what the repository provides."""
    known = [name for runner in runners(root, stack) for name in runner.names]
    known += [label.partition(":")[0] for label in stack.ci.labels]
    return Surroundings(
        labels=frozenset(known) or None,
        environments=frozenset(stack.environments),
        branches={one.branch: name for name, one in stack.environments.items() if one.branch},
        secrets=frozenset(stack.ci.secrets) | AUTOMATIC,
        sessions=sessions(root),
        read=read,
    )


def sessions(root: Path) -> frozenset[str] | None:
    """Return the sessions of noxfile.py by parsing it: asking Nox would take half a second and run the file."""
    file = root / "noxfile.py"
    if not file.is_file():
        return None
    try:
        return frozenset(_sessions(ast.parse(file.read_text(encoding="utf-8"))))
    except (SyntaxError, UnicodeDecodeError):
        return None


def _sessions(tree: ast.Module) -> Iterator[str]:
    for function in tree.body:
        if not isinstance(function, ast.FunctionDef):
            continue
        decorators = {_called(decorator): decorator for decorator in function.decorator_list}
        if "session" not in decorators:
            continue
        given = {word.arg: word.value for word in getattr(decorators["session"], "keywords", ())}
        named = given.get("name")
        name = str(named.value) if isinstance(named, ast.Constant) else function.name
        endings = ["", *_pythons(given.get("python"))]
        yield from (f"{name}{ending}" for ending in endings)
        if "parametrize" in decorators:
            # The parameter may be the Python version itself; such sessions are called NAME-VERSION.
            yield from (f"{name}(*)", f"{name}-*")


def _called(decorator: ast.expr) -> str:
    name = decorator.func if isinstance(decorator, ast.Call) else decorator
    return str(getattr(name, "attr", getattr(name, "id", "")))


def _pythons(said: ast.expr | None) -> list[str]:
    """Return the suffixes that Nox adds to a session's name, for each of its Pythons."""
    if said is None or (isinstance(said, ast.Constant) and not isinstance(said.value, str)):
        return []
    versions = said.elts if isinstance(said, ast.List | ast.Tuple | ast.Set) else [said]
    return [
        f"-{one.value}" if isinstance(one, ast.Constant) and isinstance(one.value, str) else "-*" for one in versions
    ]
