"""Which test files a change can reach: by imports, and by the tasks that a test calls by name."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

import grimp

TASK = re.compile(r"(?:[a-z]+\.)*[a-z][a-z-]*")

EVERYTHING = re.compile(
    r"pyproject\.toml|requirements.*\.lock|noxfile\.py|conche/__init__\.py|conche/testing/.*"
    r"|tests/(conftest|selection|reach|stacks|warm)\.py|docker/.*|compose/.*|stack\.yaml|scripts/.*"
)
"""A change of one of these can reach every test."""


def reached(root: Path, revision: str) -> frozenset[str]:
    """Return the test files, relative to `root`, that the changes since `revision` can reach.

    Errors:
        subprocess.CalledProcessError: git knows no such revision.
    """
    changed = _changed(root, revision)
    tests = {path.relative_to(root).as_posix() for path in (root / "tests").rglob("test_*.py")}
    if any(EVERYTHING.fullmatch(name) for name in changed):
        return frozenset(tests)
    stands_on = {name: _stands_on(root, root / name) for name in tests}
    return frozenset(name for name, files in stands_on.items() if files & changed or _reads(root / name, changed))


def _changed(root: Path, revision: str) -> set[str]:
    def lines(*words: str) -> list[str]:
        argv = ["git", "-C", str(root), *words]
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()

    since = lines("merge-base", revision, "HEAD")[0]
    return {*lines("diff", "--name-only", since), *lines("ls-files", "--others", "--exclude-standard")}


def _reads(test: Path, changed: Iterable[str]) -> bool:
    """Whether a test names a changed file that is no Python: a page, a workflow, a script."""
    text = test.read_text()
    return any(Path(name).name in text for name in changed if not name.endswith(".py"))


@cache
def _stands_on(root: Path, file: Path) -> frozenset[str]:
    """Return the Python files that a file imports or calls as a task, and theirs; it is one of them."""
    found = {file.relative_to(root).as_posix()}
    tree = ast.parse(file.read_text())
    modules = {*_imported(tree), *_called(root, tree)}
    for module in modules:
        if module.startswith("tests."):
            helper = root / (module.replace(".", "/") + ".py")
            if helper.is_file() and helper != file:
                found |= _stands_on(root, helper)
        else:
            found |= _below(module)
    conftest = file.parent / "conftest.py"
    # Of the one at the top a test uses what it asks for, and a change of it reaches everything anyway.
    if file.name.startswith("test_") and conftest.is_file() and file.parent != root / "tests":
        found |= _stands_on(root, conftest)
    return frozenset(found)


def _imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _called(root: Path, tree: ast.AST) -> Iterator[str]:
    """Yield what the tasks stand on whose names are written in a file."""
    tasks = _tasks(root)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            for word in TASK.findall(node.value):
                yield from tasks.get(word, ())


@cache
def _tasks(root: Path) -> Mapping[str, tuple[str, ...]]:
    """Return what each task's body imports, by its dotted name: a body imports only what it needs."""
    found: dict[str, tuple[str, ...]] = {}
    for file in (root / "conche").rglob("tasks.py"):
        namespace = ".".join(file.relative_to(root / "conche").parts[:-1])
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.FunctionDef):
                name = f"{namespace}.{node.name.strip('_').replace('_', '-')}"
                found[name] = (f"conche.{namespace}.tasks", *(one for one in _imported(node) if "conche" in one))
    return found


@cache
def _graph() -> grimp.ImportGraph:
    return grimp.build_graph("conche", cache_dir=None)


@cache
def _below(module: str) -> frozenset[str]:
    graph = _graph()
    if module not in graph.modules:
        return frozenset()
    # A task file imports all of its namespace, each body its own part: what is called says which.
    direct = set() if module.endswith(".tasks") else graph.find_upstream_modules(module)
    return frozenset(file for name in {module, *direct} for file in _files(name))


def _files(module: str) -> tuple[str, str]:
    path = module.replace(".", "/")
    return f"{path}.py", f"{path}/__init__.py"
