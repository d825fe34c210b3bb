"""What a program says is read as it was written, and shown without a secret; what it knows is chosen."""

from __future__ import annotations

import json
import os
import pickle

import pytest

from conche.process import Captured, ToolFailed, environment, run
from conche.secret import Redactor, Secret
from tests.test_process import CANARY, sh

# The environment


def test_a_child_knows_only_what_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        monkeypatch.delenv(name)
    passed = {"PATH": os.defpath, "HOME": "/root", "LC_ALL": "C", "DOCKER_HOST": "ssh://host", "NO_COLOR": "1"}
    kept_back = {"COMPOSE_PROJECT_NAME": "x", "COMPOSE_FILE": "y", "DB_PASSWORD": CANARY, "PYTHONPATH": "/", "LCX": "1"}
    for name, value in {**passed, **kept_back}.items():
        monkeypatch.setenv(name, value)

    seen = dict(line.split("=", 1) for line in run(["/usr/bin/env"], extra_env={"TAG": "a b"}).stdout.raw.splitlines())

    assert seen == {**passed, "TAG": "a b"}
    assert environment() == passed


def test_a_given_name_wins_over_an_inherited_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///inherited")

    assert environment({"DOCKER_HOST": "unix:///given"})["DOCKER_HOST"] == "unix:///given"


# Redaction


def test_what_is_shown_is_redacted_and_what_is_read_is_what_was_written() -> None:
    lines: list[Captured] = []
    both = sh('echo "out $1"; echo "err $1" >&2', CANARY)

    completed = run(both, redact=Redactor([Secret(CANARY)]), on_line=lines.append)

    assert (str(completed.stdout), str(completed.stderr)) == ("out ***\n", "err ***\n")
    assert sorted(map(str, lines)) == ["err ***", "out ***"]
    assert (completed.stdout.raw, completed.stderr.raw) == (f"out {CANARY}\n", f"err {CANARY}\n")
    assert sorted(line.raw for line in lines) == [f"err {CANARY}", f"out {CANARY}"]
    assert run(both, redact=Redactor([Secret(CANARY)])) == completed


@pytest.mark.parametrize("secret", [CANARY, "pa$$word", "quo\"ted 'both'", "first line\nsecond line", "öäü€ß…"])
def test_every_way_to_show_a_text_redacts_it(secret: str) -> None:
    said = Captured(f"say {secret} twice {secret}", Redactor([Secret(secret)]))

    shown = (str(said), repr(said), f"{said}", f"{said!r}", f"{said:>60}", "\n".join(said.lines()), f"{[said]}")

    assert [part for part in shown if secret in part or secret.splitlines()[0] in part] == []
    assert str(said) == "say *** twice ***"
    assert said.raw == f"say {secret} twice {secret}"


def test_an_error_carries_the_form_that_may_be_shown() -> None:
    completed = run(sh('echo "why: $1" >&2; exit 3', CANARY), redact=Redactor([Secret(CANARY)]))

    with pytest.raises(ToolFailed) as caught:
        completed.require("it")

    assert caught.value.evidence == completed.last_lines() == ("why: ***",)


def test_captured_text_is_not_taken_for_text() -> None:
    said = Captured("{}")

    with pytest.raises(TypeError):
        json.loads(said)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        "x" in said  # type: ignore[operator] # noqa: B015
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(said)
    assert said != "{}"
    assert (bool(said), bool(Captured(""))) == (True, False)
