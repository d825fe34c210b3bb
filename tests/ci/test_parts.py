"""Workflow files as documents, expressions, commands."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conche.ci.checks.commands import commands
from conche.ci.workflows.document import WorkflowInvalid, parse, read_all
from conche.ci.workflows.expressions import Expression, expressions
from conche.ci.workflows.runners import runners
from conche.ci.workflows.surroundings import sessions
from conche.ci.workflows.workflow import Job, WorkflowStep
from conche.ci.workflows.workflow import parse as read
from conche.errors import Refused
from conche.stack import parse as parse_stack


def test_on_is_a_key_and_every_value_has_its_line() -> None:
    document = parse("name: x\non:\n  push:\n    branches: [main]\n", "x.yml")

    assert document.content["on"] == {"push": {"branches": ["main"]}}
    assert document.line(("on", "push", "branches", 0)) == 4
    assert document.line(("on", "push", "paths")) == document.line(("on", "push")) == 3


@given(st.text())
def test_any_text_is_a_document_or_refused(text: str) -> None:
    with contextlib.suppress(WorkflowInvalid):
        assert read(parse(text, "x.yml")).file == "x.yml"


def test_an_alias_inside_its_own_anchor_is_refused() -> None:
    with pytest.raises(WorkflowInvalid, match="alias"):
        parse("a: &a\n  b: *a\n", "x.yml")


def test_aliases_that_mean_billions_are_refused_at_once() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]

    with pytest.raises(WorkflowInvalid, match="aliases"):
        parse("\n".join(lines), "x.yml")


@pytest.mark.parametrize(
    ("compose", "labels"),
    [
        ("services:\n  r: {image: x, environment: {GITEA_RUNNER_LABELS: '${LABELS:-a:host,b:host}'}}\n", ["a", "b"]),
        ("services:\n  r: {image: x, environment: [RUNNER_LABELS=a:host], ports: !reset []}\n", ["a"]),
        ("services:\n", []),
        ("services: {r: }\n", []),
        ("[]\n", []),
    ],
)
def test_runners_are_found_in_compose_files_of_any_shape(tmp_path: Path, compose: str, labels: list[str]) -> None:
    (tmp_path / "c.yaml").write_text(compose)
    stack = parse_stack("name: x\nregistry: r\nenvironments: {dev: {compose: [c.yaml]}}\n")

    assert [name for runner in runners(tmp_path, stack) for name in runner.names] == labels


def test_a_compose_file_that_is_no_yaml_is_told(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("services: [\n")
    stack = parse_stack("name: x\nregistry: r\nenvironments: {dev: {compose: [c.yaml]}}\n")

    with pytest.raises(Refused, match="is not YAML"):
        runners(tmp_path, stack)


@pytest.mark.parametrize(
    ("source", "names"),
    [
        (
            "@nox.session\ndef lint(s): ...\n@nox.session(name='ty')\ndef types(s): ...\ndef helper(): ...\n",
            {"lint", "ty"},
        ),
        ("from nox import session\n@session(python='3.12')\ndef tests(s): ...\n", {"tests", "tests-3.12"}),
        ("@nox.session(python=['3.11', '3.12'])\ndef t(s): ...\n", {"t", "t-3.11", "t-3.12"}),
        ("@nox.session(python=PYTHONS)\ndef t(s): ...\n", {"t", "t-*"}),
        ("@nox.session(python=False)\ndef t(s): ...\n", {"t"}),
        ("@nox.session\n@nox.parametrize('django', [4, 5])\ndef t(s): ...\n", {"t", "t(*)", "t-*"}),
        ("def broken(:\n", None),
    ],
)
def test_sessions_are_read_from_the_noxfile(tmp_path: Path, source: str, names: set[str] | None) -> None:
    (tmp_path / "noxfile.py").write_text(source)

    assert sessions(tmp_path) == names


@pytest.mark.parametrize(
    ("said", "events"),
    [
        ("on: push", ["push"]),
        ("on: [push, pull_request]", ["push", "pull_request"]),
        ("on: {push: {branches: [a]}, pull_request: }", ["push", "pull_request"]),
    ],
)
def test_triggers_are_read_in_each_of_their_forms(said: str, events: list[str]) -> None:
    assert list(read(parse(said, "x.yml")).triggers) == events


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("github.ref == 'refs/heads/main' && 'prod' || 'dev'", ["github.ref"]),
        ("needs.build-image.outputs.image", ["needs.build-image.outputs.image"]),
        ("contains(github.event.labels.*.name, 'it''s.here')", ["contains()", "github.event.labels.*.name"]),
        ("env.A1 != 0 && !cancelled()", ["env.A1", "cancelled()"]),
        ("true || null", []),
        ("needs['t'].outputs.x != 'secrets.X'", ["needs.t.outputs.x"]),
        ("github.event[ 'a b' ].x || 'it''s[''a'']'", ["github.event"]),
    ],
)
def test_the_names_of_an_expression_are_found(text: str, names: list[str]) -> None:
    found = [f"{name}()" if name.call else str(name) for name in Expression((), text).names()]

    assert found == names


def test_a_condition_is_an_expression_with_and_without_braces() -> None:
    document = parse("jobs: {a: {if: github.ref, b: '${{ env.X }}', c: github.sha}}", "x.yml")

    assert [one.text for one in expressions(document)] == ["github.ref", "env.X"]


def test_workflows_may_stand_outside_the_root(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/one.yml").write_text("on: push\n")

    [document] = read_all(tmp_path / "root", tmp_path / "elsewhere")

    assert document.file == "../elsewhere/one.yml"


@pytest.mark.parametrize(
    ("run", "argv"),
    [
        ("invoke ci.validate", [("invoke", "ci.validate")]),
        ("A=1 nox -s tests -- -m 'not engine'", [("nox", "-s", "tests", "--", "-m", "not engine")]),
        ("one \\\n  two\nthree && four; five", [("one", "two"), ("three",), ("four",), ("five",)]),
        ('echo "open\nend"', [("echo", "open\nend")]),
        ('one\necho "never closed', [("one",)]),
        ("one --a b > c 2>/dev/null\none>>c < d 2>&1 | two 2", [("one", "--a", "b"), ("one",), ("two", "2")]),
        ("cat <<'END' >c\nit's one\nEND\ntwo", [("cat",), ("two",)]),
        ("if one; then two; fi", [("one",), ("two",), ("fi",)]),
        (
            "! one\nexec two\ntime three\nenv -i A=b four\nA=b five",
            [("one",), ("two",), ("three",), ("four",), ("five",)],
        ),
        ("one $(two a) ';' \"a > b\" c\\ d ${{ x.y }}", [("one", "$(two a)", ";", "a > b", "c d", "${{ x.y }}")]),
        ("# a comment\n\nmake", [("make",)]),
    ],
)
def test_the_commands_of_a_step_are_found(run: str, argv: list[tuple[str, ...]]) -> None:
    job = Job("a", (), steps=(WorkflowStep((), run=run),))

    assert [command.argv for command in commands(job)] == argv


def test_only_shells_that_are_known_are_read() -> None:
    text = """\
defaults: {run: {shell: python}}
jobs:
  a: {steps: [{run: one}, {run: two, shell: '/bin/sh -e {0}'}, {run: three, shell: pwsh}]}
  b: {defaults: {run: {shell: bash}}, steps: [{run: four}, {run: five, shell: python}]}
"""
    workflow = read(parse(text, "x.yml"))

    assert [command.argv for job in workflow.jobs.values() for command in commands(job)] == [("two",), ("four",)]
    assert [step.interpreter for step in workflow.jobs["a"].steps] == ["python", "sh", "pwsh"]


@pytest.mark.parametrize(
    "argv",
    [("invoke", "x"), (".venv/bin/invoke", "x"), ("python", "-m", "invoke", "x"), ("python3", "-m", "invoke", "x")],
)
def test_a_program_is_known_by_name_path_and_module(argv: tuple[str, ...]) -> None:
    [command] = commands(Job("a", (), steps=(WorkflowStep((), run=" ".join(argv)),)))

    assert command.after("invoke") == ("x",)
    assert command.after("nox") is None
