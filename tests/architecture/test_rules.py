"""The rules of the house that a reader can check, checked."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from invoke import Task

from conche import errors
from conche.process import ToolFailed
from conche.stack import schema
from tests.architecture.source import SOURCES, named, nodes, parsed, tasks
from tests.stacks import ROOT

ERRORS = {name for name in errors.__all__ if name[0].isupper()} | {
    "BuildFailed",
    "EngineRefused",
    "InfluxFailed",
    "PullFailed",
    "StackInvalid",
    "TooManyRequests",
    "LogNotThere",
    ToolFailed.__name__,
    "WorkflowInvalid",
}


def codes() -> Iterator[tuple[str, str]]:
    """Every error code in the source, with the file it stands in."""
    for source in SOURCES:
        for node in nodes(source):
            if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
                text = node.args[0].value
                if isinstance(text, str) and re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)+", text):
                    function = node.func
                    name = function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")
                    if name in ERRORS or name in ("kind", "__init__"):
                        yield text, source.name


def test_the_import_contracts_are_kept() -> None:
    linter = subprocess.run(
        [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert linter.returncode == 0, linter.stdout


@pytest.mark.parametrize(("name", "task"), list(tasks()), ids=[name for name, _ in tasks()])
def test_a_task_is_documented_takes_json_and_explains_its_options(name: str, task: Task[Any]) -> None:
    options = task.get_arguments(ignore_unknown_help=True)

    assert task.__doc__
    assert task.__doc__.splitlines()[0].endswith(".")
    assert "json" in {option.name for option in options}
    assert [option.name for option in options if not option.help] == []
    assert f"### {name}" in (ROOT / "docs/reference/tasks.md").read_text()


def test_every_error_code_is_in_the_reference_and_no_other() -> None:
    reference = (ROOT / "docs/reference/errors.md").read_text()

    documented = set(re.findall(r"^\| `([a-z0-9-]+-[a-z0-9-]+)` \|", reference, re.MULTILINE))

    assert documented == {code for code, _ in codes()}


def test_modules_and_functions_stay_readable() -> None:
    long = {named(source) for source in SOURCES if len(source.read_text().splitlines()) > 400}
    long |= {
        f"{named(source)}:{node.name}"
        for source in SOURCES
        for node in nodes(source)
        if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno > 60
    }

    assert long == set()


@pytest.mark.parametrize("source", [s for s in SOURCES if s.name == "tasks.py"], ids=lambda path: path.parent.name)
def test_a_task_body_calls_one_function_of_its_namespace(source: Path) -> None:
    functions = [node for node in parsed(source).body if isinstance(node, ast.FunctionDef)]

    bodies = [
        [type(statement).__name__ for statement in f.body if not isinstance(statement, ast.Expr)] for f in functions
    ]

    assert functions
    assert [body for body in bodies if body[-1] != "Return" or set(body[:-1]) != {"ImportFrom"}] == []


def test_only_output_prints_and_nobody_uses_a_shell() -> None:
    calls = [(named(source), node) for source in SOURCES for node in nodes(source) if isinstance(node, ast.Call)]
    printing = {file for file, node in calls if isinstance(node.func, ast.Name) and node.func.id == "print"}
    shells = [f"{file}:{node.lineno}" for file, node in calls for one in node.keywords if one.arg == "shell"]

    assert printing <= {"conche/output.py"}
    assert shells == []


def raw_in_errors(every: Iterable[ast.AST]) -> list[int]:
    """Lines where what a program wrote goes into an error as it was written, and not as it may be shown."""
    return [
        below.lineno
        for node in every
        if isinstance(node, ast.Raise) or (isinstance(node, ast.keyword) and node.arg in ("evidence", "looked_at"))
        for below in ast.walk(node)
        if isinstance(below, ast.Attribute) and below.attr == "raw"
    ]


def test_no_error_carries_what_a_program_wrote_unredacted() -> None:
    assert [f"{named(source)}:{line}" for source in SOURCES for line in raw_in_errors(nodes(source))] == []


@pytest.mark.parametrize(
    "code",
    ["raise Refused('a-b', f'why: {done.stderr.raw}')", "return Refused('a-b', 'c', evidence=[done.stdout.raw])"],
)
def test_an_error_that_does_is_found(code: str) -> None:
    assert raw_in_errors(ast.walk(ast.parse(code))) == [1]


def test_no_two_classes_have_one_name() -> None:
    classes = Counter(node.name for source in SOURCES for node in nodes(source) if isinstance(node, ast.ClassDef))

    assert {name for name, times in classes.items() if times > 1} == set()


def test_the_schema_is_in_step_with_the_model() -> None:
    assert json.loads((ROOT / "conche/stack.schema.json").read_text()) == json.loads(json.dumps(schema()))


@pytest.mark.parametrize("script", sorted((ROOT / "scripts").iterdir()), ids=lambda path: path.name)
def test_a_script_is_executable_and_explains_itself(script: Path) -> None:
    shown = subprocess.run([str(script), "--help"], capture_output=True, text=True, check=False)

    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith(f"Usage: scripts/{script.name}")


@pytest.mark.parametrize("script", ["bootstrap", "install-engine", "quickstart"])
def test_a_script_refuses_an_option_it_does_not_know(script: str) -> None:
    refused = subprocess.run(
        [str(ROOT / "scripts" / script), "--nonsense"], capture_output=True, text=True, check=False
    )

    assert refused.returncode == 2
