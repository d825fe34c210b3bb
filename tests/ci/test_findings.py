"""Our own rules, without the tools, on workflows of a few lines: what they find, and what they let pass."""

from __future__ import annotations

from pathlib import Path

import pytest

from conche.ci.checks import commands, rules
from conche.ci.workflows.document import parse
from conche.ci.workflows.invoked import reader
from conche.ci.workflows.surroundings import Surroundings
from conche.ci.workflows.workflow import parse as read
from tests.stacks import ROOT

READ = reader(ROOT)
SESSIONS = frozenset({"lint", "tests", "tests-3.12", "docs", "docs-*", "docs(*)"})


def found(text: str, around: Surroundings) -> list[str]:
    workflow = read(parse(text, "x.yml"))
    return [one.rule for one in [*rules.examine(workflow, around), *commands.examine(workflow, around)]]


def of_command(command: str, around: Surroundings) -> list[str]:
    lines = "\n".join(f"          {line}" for line in command.splitlines())
    job = "jobs:\n  test: {steps: []}\n  a:\n    needs: test\n    if: github.ref == 'refs/heads/main'\n    steps:\n"
    return found(f"{job}      - run: |\n{lines}\n", around)


def around(**said: object) -> Surroundings:
    known = {"environments": frozenset({"dev", "prod"}), "branches": {"main": "prod", "develop": "dev"}}
    return Surroundings(**(known | {"sessions": SESSIONS, "read": READ} | said))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "command",
    [
        "invoke ci.graph --form svg > pipeline.svg",
        "invoke ci.status --limit 5 2>/dev/null",
        "invoke ci.graph >>file 2>&1",
        "invoke ci.graph < file | tee pipeline.txt",
        "invoke backup.create daily",
        "invoke backup.create --dry-run daily && invoke backup.create",
        "if invoke ci.validate; then invoke ci.graph; fi",
        "python -c '\ninvoke nosuch\n'",
        "invoke env.deploy -e prod",
        'invoke env.deploy --env "$ENVIRONMENT" --image $(cat image)',
        "invoke env.deploy --dry-run",
        "nox -s tests-3.12 'docs(django=5)' docs-3.11 && nox -rs lint && nox -slint -p 3.12",
    ],
)
def test_a_correct_command_passes(command: str) -> None:
    assert of_command(command, around()) == []


@pytest.mark.parametrize(
    ("command", "rule"),
    [
        ("inv ci.nosuch", "task-unknown"),
        ("if true; then invoke env.nosuch; fi", "task-unknown"),
        ("! invoke env.nosuch", "task-unknown"),
        ("exec invoke env.nosuch", "task-unknown"),
        ("time invoke env.nosuch", "task-unknown"),
        ("env A=b invoke env.nosuch", "task-unknown"),
        ("A=b invoke env.nosuch", "task-unknown"),
        ("invoke env.status nosuch > file", "task-unknown"),
        ("nox -rs nosuch", "session-unknown"),
        ("nox -s lint nosuch", "session-unknown"),
        ("nox --session=nosuch", "session-unknown"),
        ("nox -s tests-3.9", "session-unknown"),
        ("nox -s 'lint(django=5)'", "session-unknown"),
        ("invoke env.status -e nosuch", "environment-unknown"),
        ("invoke env.deploy -e dev", "branch-unknown"),
        ("invoke env.deploy", "branch-unknown"),
    ],
)
def test_a_command_that_would_fail_is_found(command: str, rule: str) -> None:
    assert of_command(command, around()) == [rule]


def test_the_command_line_of_this_process_is_not_the_one_that_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["invoke", "backup.create", "daily"])

    assert of_command("invoke backup.create", around()) == []


def test_tasks_below_a_name_of_their_own_deploy_too(tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text(
        "from invoke import Collection\nfrom conche import namespace\n"
        "ns = Collection()\nns.add_collection(namespace(__file__), name='conche')\n"
    )
    (tmp_path / "stack.yaml").write_text((ROOT / "stack.yaml").read_text())
    namespaced = around(read=reader(tmp_path))

    assert of_command("invoke conche.env.deploy -e prod", namespaced) == []
    assert of_command("invoke conche.env.deploy -e dev", namespaced) == ["branch-unknown"]
    alone = "jobs: {a: {if: github.ref == 'refs/heads/main', steps: [{run: invoke conche.env.deploy -e prod}]}}"
    assert found(alone, namespaced) == ["deploy-without-needs"]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("contains(needs.*.result, 'failure')", []),
        ("needs['t'].outputs.x", []),
        ("needs['t'].outputs['y']", ["output-unknown"]),
        ("needs['u'].outputs.x", ["needs-missing"]),
        ("secrets['NOBODY_PUTS']", ["secret-undeclared"]),
    ],
)
def test_what_stands_in_brackets_and_every_job_are_read(expression: str, expected: list[str]) -> None:
    text = f"""\
jobs:
  t: {{outputs: {{x: "1"}}, steps: []}}
  a: {{needs: t, steps: [{{uses: x, env: {{X: "${{{{ {expression} }}}}"}}}}]}}
"""
    assert found(text, around()) == expected


def test_a_called_workflow_reads_its_jobs() -> None:
    text = 'on: {workflow_call: {outputs: {x: {value: "${{ jobs.a.outputs.x }}"}}}}\njobs: {a: {steps: []}}\n'

    assert found(text, around()) == []
