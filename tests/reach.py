"""Find the test files that a change can reach: by imports, and by the tasks that a test calls by name."""

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
"""Files of which any change can reach every test."""


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
    """Return whether a test names a changed file other than Python: a page, a workflow, a script."""
    text = test.read_text()
    return any(Path(name).name in text for name in changed if not name.endswith(".py"))


@cache
def _stands_on(root: Path, file: Path) -> frozenset[str]:
    """Return a Python file, and all that it imports or calls as tasks, directly or not."""
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
    # The top-level conftest.py is left out: a change to it reaches everything anyway.
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
    """Yield the modules needed by the tasks whose names are in a file."""
    tasks = _tasks(root)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            for word in TASK.findall(node.value):
                yield from tasks.get(word, ())


@cache
def _tasks(root: Path) -> Mapping[str, tuple[str, ...]]:
    """Return by dotted name what each task's body imports, which is only what it needs."""
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
    # A tasks.py imports its whole namespace, but each body only its own part, which `_tasks` has already given.
    direct = set() if module.endswith(".tasks") else graph.find_upstream_modules(module)
    return frozenset(file for name in {module, *direct} for file in _files(name))


def _files(module: str) -> tuple[str, str]:
    path = module.replace(".", "/")
    return f"{path}.py", f"{path}/__init__.py"
