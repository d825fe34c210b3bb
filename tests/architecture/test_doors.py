"""Each task has a module of its own in its namespace's folder: who knows a command's name knows where it is."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.architecture.test_rules import ROOT, parsed

ELSEWHERE = {
    "ci": {"run_", "status", "watch", "logs", "dispatch", "rerun", "cancel", "setup"},
    "env": {
        "logs", "health", "config", "restart", "update", "exec_", "networks", "deploy", "rollback", "history",
        "recover", "freeze", "maintenance", "scale",
    },
}  # fmt: skip
"""Tasks whose module still has another name: each goes when its module is moved, and none comes."""

TASKS = sorted(path for path in (ROOT / "conche").glob("*/tasks.py"))


def at_home(task: ast.FunctionDef, folder: str) -> bool:
    """Whether a task's body takes the function of its name from the module of its name."""
    return any(
        isinstance(below, ast.ImportFrom)
        and below.module == f"conche.{folder}.{task.name.rstrip('_')}"
        and task.name in {name.name for name in below.names}
        for below in task.body
    )


@pytest.mark.parametrize("source", TASKS, ids=lambda path: path.parent.name)
def test_a_task_is_in_a_module_of_its_name(source: Path) -> None:
    folder = source.parent.name

    tasks = [node for node in parsed(source).body if isinstance(node, ast.FunctionDef)]

    assert {task.name for task in tasks if not at_home(task, folder)} == ELSEWHERE.get(folder, set())
