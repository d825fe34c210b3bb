"""The figures of the house, counted in the source: `python -m tests.architecture.numbers`."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.architecture.source import SOURCES, nodes
from tests.architecture.test_doors import TASKS, at_home, tasks
from tests.stacks import ROOT

MANY = 5
"""Parameters above which a function is counted, `self` apart."""


def functions(source: Path) -> Iterator[ast.FunctionDef]:
    for node in nodes(source):
        if isinstance(node, ast.FunctionDef):
            yield node


def parameters(function: ast.FunctionDef) -> int:
    named = [one.arg for one in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)]
    return len([name for name in named if name not in ("self", "cls")])


def code(source: Path) -> int:
    """Lines without blank ones, docstrings and comments."""
    documented: set[int] = set()
    for node in nodes(source):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            documented.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = enumerate(source.read_text(encoding="utf-8").splitlines(), 1)
    return sum(bool(line.strip()) and number not in documented and line.lstrip()[0] != "#" for number, line in lines)


def asking(attribute: str) -> list[Path]:
    """Modules that look at an attribute of this name."""
    return [
        source for source in SOURCES
        if any(isinstance(node, ast.Attribute) and node.attr == attribute for node in nodes(source))
    ]  # fmt: skip


def rows() -> Iterator[tuple[str, str]]:
    yield "modules", str(len(SOURCES))
    yield "lines of code", str(sum(code(source) for source in SOURCES))
    every = [(".".join(source.parent.relative_to(ROOT).parts), task) for source in TASKS for task in tasks(source)]
    home = [task for package, task in every if at_home(task, package)]
    yield "tasks in a module of their name", f"{len(home)} of {len(every)}"
    inside = [source for source in SOURCES if source.name != "tasks.py"]
    many = [one for source in inside for one in functions(source) if parameters(one) > MANY]
    yield f"functions with more than {MANY} parameters", str(len(many))
    yield "modules that ask whether it is Swarm", str(len(asking("swarm")))


def main() -> None:
    for name, figure in rows():
        sys.stdout.write(f"{name:45} {figure:>12}\n")


if __name__ == "__main__":
    main()
