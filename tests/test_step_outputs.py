"""An answer becomes the outputs of a workflow's step."""

from __future__ import annotations

from pathlib import Path

import pytest

from conche.outcome import Outcome
from conche.secret import Secret
from tests.test_output import CANARY, Streams, plain

__all__ = ["plain"]


def outputs_of(value: object, file: Path) -> dict[str, str]:
    """Read outputs as a runner would: NAME<<END, lines, END."""
    Streams().output.outcome(Outcome(value=value))
    lines, found = iter(file.read_text().splitlines()), {}
    for line in lines:
        name, _, end = line.partition("<<")
        found[name] = "\n".join(iter(lines.__next__, end))
    return found


@pytest.fixture
def step_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "outputs"
    file.touch()
    monkeypatch.setenv("GITHUB_OUTPUT", str(file))
    return file


def test_an_answer_becomes_the_outputs_of_a_step(step_file: Path) -> None:
    value = {"image": "a/b@sha256:1", "tags": ["x", "y"], "changed": True, "none": None, "lines": "one\ntwo"}

    assert outputs_of(value, step_file) == {
        "image": "a/b@sha256:1",
        "tags": '["x", "y"]',
        "changed": "true",
        "none": "null",
        "lines": "one\ntwo",
    }


@pytest.mark.parametrize("value", [None, ["a"], "text", {"no name": "x", "1st": "y"}])
def test_an_answer_without_names_has_no_outputs(step_file: Path, value: object) -> None:
    assert outputs_of(value, step_file) == {}


def test_a_secret_is_no_output(step_file: Path) -> None:
    streams = Streams()
    streams.output.redact.learn([Secret(CANARY)])

    streams.output.outcome(Outcome(value={"token": CANARY, "secret": Secret("another value")}))

    assert CANARY not in step_file.read_text()
    assert "another value" not in step_file.read_text()


def test_a_dry_run_has_no_outputs(step_file: Path) -> None:
    Streams().output.outcome(Outcome(value={"image": "x"}), dry_run=True)

    assert step_file.read_text() == ""


def test_outputs_that_cannot_be_written_are_a_warning(plain: Streams, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_OUTPUT", "/nowhere/outputs")

    plain.output.outcome(Outcome(value={"image": "x"}, lines=["done"]))

    assert "the step has no outputs" in plain.written[1]
    assert plain.written[0] == "done\n"
