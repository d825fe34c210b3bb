"""The source of the toolkit as a tree, read once a process, and its tasks."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from invoke import Collection, Task

import conche
from conche.command import seldom_collecting
from tests.stacks import ROOT

__all__ = ["NAMESPACE", "SOURCES", "named", "nodes", "parsed", "tasks"]

BUILT = ROOT / "conche/_version.py"
"""Written where the package is built or installed in place; git ignores it."""

SOURCES = sorted(source for source in (ROOT / "conche").rglob("*.py") if source != BUILT)
NAMESPACE = conche.namespace(ROOT)


def tasks() -> Iterator[tuple[str, Task[Any]]]:
    """Yield every task with its name."""

    def walk(collection: Collection, prefix: str) -> Iterator[tuple[str, Task[Any]]]:
        for name, task in collection.tasks.items():
            yield prefix + name, task
        for name, below in collection.collections.items():
            yield from walk(below, f"{prefix}{name}.")

    yield from walk(NAMESPACE, "")


@functools.cache
def parsed(source: Path) -> ast.Module:
    """Return a file's tree."""
    with seldom_collecting():
        return ast.parse(source.read_text(encoding="utf-8"))


@functools.cache
def nodes(source: Path) -> tuple[ast.AST, ...]:
    """Return every node of a file's tree, in no specified order."""
    return tuple(ast.walk(parsed(source)))


def named(source: Path) -> str:
    """Return a file's name in a message."""
    return source.relative_to(ROOT).as_posix()
