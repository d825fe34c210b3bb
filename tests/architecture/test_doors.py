"""Each task has a module of its own in its namespace's folder: who knows a command's name knows where it is."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

from tests.architecture.source import SOURCES, parsed
from tests.stacks import ROOT

MAP = (ROOT / "docs/architecture.md").read_text().partition("```\n")[2].partition("```")[0]

TASKS = sorted((ROOT / "conche").rglob("tasks.py"))


def at_home(task: ast.FunctionDef, package: str) -> bool:
    """Whether a task's body takes the function of its name from the module of its name."""
    return any(
        isinstance(below, ast.ImportFrom)
        and below.module == f"{package}.{task.name.rstrip('_')}"
        and task.name in {name.name for name in below.names}
        for below in task.body
    )


def tasks(source: Path) -> list[ast.FunctionDef]:
    """The tasks of one file, by their functions."""
    return [node for node in parsed(source).body if isinstance(node, ast.FunctionDef)]


@pytest.mark.parametrize("source", TASKS, ids=lambda path: path.parent.relative_to(ROOT).as_posix())
def test_a_task_is_in_a_module_of_its_name(source: Path) -> None:
    package = ".".join(source.parent.relative_to(ROOT).parts)

    assert [task.name for task in tasks(source) if not at_home(task, package)] == []


def doors() -> set[Path]:
    """The modules that are named as a task of their folder."""
    return {source.parent / f"{task.name.rstrip('_')}.py" for source in TASKS for task in tasks(source)}


def test_the_map_names_every_module_that_no_task_is_named_after() -> None:
    modules = {source for source in SOURCES if source.name not in ("__init__.py", "tasks.py")} - doors()

    # As often as there are modules of one name.
    assert Counter(one.name for one in modules) - Counter(re.findall(r"\b[a-z_]+\.py\b", MAP)) == Counter()


def test_the_map_names_nothing_that_is_gone() -> None:
    toolkit = MAP.partition("conche/  ")[2].partition("\ncompose/  ")[0]

    assert set(re.findall(r"\b[a-z_]+\.py\b", toolkit)) <= {source.name for source in SOURCES}
