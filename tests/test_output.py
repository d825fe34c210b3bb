"""stdout carries only the answer; no stream carries a secret; colour appears only where somebody sees it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conche.errors import Locked, Partial, Refused
from conche.outcome import Action, Kind, Outcome, Plan, Step, Table
from conche.output import Output
from conche.secret import Secret

CANARY = "canary-5$\"é'"
PLAN = Plan(
    (
        Step(Action.BUILD, Kind.IMAGE, "app", "no such image"),
        Step(Action.REMOVE, Kind.VOLUME, "data", "asked for", destroys=True),
    )
)
COLOUR = re.compile(r"\x1b\[[0-9;]*[34][0-7]m")
TABLE = Table(("service", "state"), (("web", "running"), ("db", "unhealthy")))


Terminal = Callable[..., str]


@dataclass
class Streams:
    """An `Output` on neither a terminal nor a pipe, and what it wrote."""

    as_json: bool = False
    stdin: TextIO = field(default_factory=io.StringIO)
    stdout: io.StringIO = field(default_factory=io.StringIO)
    stderr: io.StringIO = field(default_factory=io.StringIO)

    def __post_init__(self) -> None:
        self.output = Output("env.up", as_json=self.as_json, stdin=self.stdin, stdout=self.stdout, stderr=self.stderr)

    @property
    def written(self) -> tuple[str, str]:
        return self.stdout.getvalue(), self.stderr.getvalue()

    @property
    def document(self) -> Any:
        return json.loads(self.stdout.getvalue())


@pytest.fixture
def plain() -> Streams:
    return Streams()


@pytest.fixture
def as_json() -> Streams:
    return Streams(as_json=True)


@pytest.fixture
def at_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """A function that uses an `Output` on a terminal of 80 columns, and returns what was to be seen."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setenv("TERM", "xterm")

    def terminal(work: Callable[[Output], object], typed: str = "") -> str:
        master, slave = pty.openpty()
        seen: list[bytes] = []
        os.write(master, typed.encode())
        try:
            with open(slave, closefd=False) as keyboard, open(slave, "w", closefd=False) as screen:
                work(Output("env.down", stdin=keyboard, stdout=screen, stderr=screen))
        finally:
            os.close(slave)
            with contextlib.suppress(OSError):  # how Linux reports the end of a terminal
                while True:
                    seen.append(os.read(master, 65536))
            os.close(master)
        return b"".join(seen).decode()

    return terminal


# The JSON document


def test_the_document_of_an_outcome_has_all_its_parts(as_json: Streams) -> None:
    as_json.output.outcome(
        Outcome(
            {"path": Path("/a"), "table": TABLE},
            changed=True,
            plan=PLAN,
            tables=[TABLE],
            lines=["a line"],
            warnings=["slow"],
            raw="raw",
        )
    )

    assert as_json.document == {
        "schema": "conche/1",
        "command": "env.up",
        "changed": True,
        "value": {
            "path": "/a",
            "table": {"columns": ["service", "state"], "rows": [["web", "running"], ["db", "unhealthy"]], "title": ""},
        },
        "plan": PLAN.as_json(),
        "warnings": ["slow"],
    }
    assert as_json.stderr.getvalue() == "warning: slow\n"


def test_the_document_of_an_error_has_the_same_parts_and_the_error(as_json: Streams) -> None:
    error = Locked("already-running", "dev is locked.", next_command="wait")

    as_json.output.error(error)

    assert as_json.document == {
        "schema": "conche/1",
        "command": "env.up",
        "changed": False,
        "value": None,
        "plan": [],
        "warnings": [],
        "error": error.as_json(),
    }
    assert as_json.stderr.getvalue() == "error [already-running]: dev is locked.\nNext: wait\n"


def test_the_document_of_a_part_that_failed_has_what_became_of_the_rest(as_json: Streams) -> None:
    error = Partial("mirror-incomplete", "One of two.")
    error.rest = Outcome(value={"web": "copied"}, changed=True, plan=PLAN, warnings=["one is old"])

    as_json.output.error(error)

    assert as_json.document == {
        "schema": "conche/1",
        "command": "env.up",
        "changed": True,
        "value": {"web": "copied"},
        "plan": PLAN.as_json(),
        "warnings": ["one is old"],
        "error": error.as_json(),
    }
    assert "warning: one is old" in as_json.written[1]


def test_what_has_no_json_form_is_a_bug(as_json: Streams) -> None:
    with pytest.raises(TypeError, match="no JSON form for object"):
        as_json.output.outcome(Outcome(object()))


@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda below: st.lists(below) | st.dictionaries(st.text(), below),
        max_leaves=25,
    )
)
def test_the_document_carries_any_value_as_it_is(value: object) -> None:
    streams = Streams(as_json=True)
    streams.output.outcome(Outcome(value))

    assert streams.document["value"] == value


@given(
    secret=st.text(min_size=6) | st.integers(min_value=100_000).map(str) | st.sampled_from(["changed", '": null']),
    beside=st.integers() | st.text(),
)
def test_redaction_never_breaks_the_document(secret: str, beside: object) -> None:
    streams = Streams(as_json=True)
    streams.output.redact.learn([Secret(secret)])
    streams.output.outcome(Outcome({"number": f"<{secret}>", "beside": beside, "list": [secret]}))

    assert (streams.document["value"]["number"], streams.document["value"]["list"]) == ("<***>", ["***"])


# Streams


def test_progress_and_warnings_go_to_stderr_and_the_answer_to_stdout(plain: Streams) -> None:
    with plain.output.progress("building") as progress:
        progress.step("step 1")
        progress.detail("too fine for a log")
    plain.output.outcome(Outcome(raw="raw\n", lines=["next"], warnings=["careful"]))

    assert plain.written == ("raw\nnext\n", "building\nstep 1\nwarning: careful\n")


def test_an_error_says_what_was_seen_and_what_to_type(plain: Streams) -> None:
    plain.output.error(
        Refused(
            "two-words",
            "It failed at [bold]docker:latest:package:[/].",
            looked_at=["/a [x]"],
            evidence=["[/bin/sh] :x: " + "w" * 250],
            next_command="first\nsecond",
        )
    )

    assert plain.stdout.getvalue() == ""
    assert plain.stderr.getvalue().splitlines() == [
        "error [two-words]: It failed at [bold]docker:latest:package:[/].",
        "  looked at: /a [x]",
        f"  | [/bin/sh] :x: {'w' * 250}",
        "Next: first",
        "      second",
    ]


@pytest.mark.parametrize(("plan", "shown"), [(Plan(), "Nothing to do."), (PLAN, "Plan (nothing was changed)")])
def test_a_dry_run_shows_its_plan(plan: Plan, shown: str, plain: Streams) -> None:
    plain.output.outcome(Outcome(plan=plan), dry_run=True)

    assert plain.stdout.getvalue().splitlines()[0].strip() == shown


def test_a_dry_run_shows_every_step_with_its_cause(plain: Streams) -> None:
    plain.output.outcome(Outcome(plan=PLAN), dry_run=True)

    assert [line.split() for line in plain.stdout.getvalue().splitlines()[-2:]] == [
        ["1", "build", "image", "app", "no", "such", "image"],
        ["2", "remove", "volume", "data", "asked", "for"],
    ]


def test_a_wide_table_is_not_cut_off_a_terminal(plain: Streams, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    cells = ("registry.example.org/" + "a" * 100, "sha256:" + "f" * 64)

    plain.output.outcome(Outcome(tables=[Table(("image", "digest"), (cells,))]))

    assert tuple(plain.stdout.getvalue().splitlines()[-1].split()) == cells


def test_words_of_a_table_are_no_markup(plain: Streams) -> None:
    plain.output.outcome(
        Outcome(tables=[Table(("a [red]",), (("[/x] :cat: " + "=" * 30,),), title="the [b]title[/b] :dog:")])
    )

    lines = [line.strip() for line in plain.stdout.getvalue().splitlines()]
    assert (lines[0], lines[1], lines[-1]) == ("the [b]title[/b] :dog:", "a [red]", "[/x] :cat: " + "=" * 30)


# Secrets


def everything_with(secret: str) -> list[Callable[[Output], None]]:
    outcome = Outcome(
        {"deep": [secret], secret: 1, "typed": Secret(secret)},
        plan=Plan((Step(Action.SET, Kind.SECRET, secret, secret),)),
        tables=[Table((secret,), ((secret,),), title=secret)],
        lines=[secret],
        warnings=[secret],
        raw=secret,
    )
    error = Refused("two-words", secret, looked_at=[secret], evidence=[secret], next_command=secret)

    def progress(output: Output) -> None:
        with output.progress(secret) as shown:
            shown.step(secret)
            shown.detail(secret)

    return [
        lambda output: output.outcome(outcome),
        lambda output: output.outcome(outcome, dry_run=True),
        lambda output: output.error(error),
        lambda output: output.say(secret),
        lambda output: output.line(secret),
        progress,
    ]


@pytest.mark.parametrize("streams", [Streams(), Streams(as_json=True)], ids=["tables", "json"])
def test_no_secret_stands_in_any_stream(streams: Streams) -> None:
    streams.output.redact.learn([Secret(CANARY)])
    for speak in everything_with(CANARY):
        speak(streams.output)

    assert [stream for stream in streams.written if "canary" in stream] == []
    assert [stream.count("***") > 3 for stream in streams.written] == [True, True]


def test_no_secret_stands_on_a_terminal(at_terminal: Terminal) -> None:
    def work(output: Output) -> None:
        output.redact.learn([Secret(CANARY)])
        for speak in everything_with(CANARY):
            speak(output)
        output.confirm(CANARY)

    seen = at_terminal(work, "yes\n")

    assert ("canary" in seen, seen.count("***") > 10) == (False, True)


def test_a_typed_secret_is_masked_though_nobody_told_the_redactor(as_json: Streams) -> None:
    as_json.output.outcome(Outcome({"password": Secret("short")}))

    assert as_json.document["value"] == {"password": "***"}


# Terminals


def show_all(output: Output) -> None:
    with output.progress("working [/bin/sh] :cat:") as progress:
        progress.step("building [/x] [2/3]")
        progress.detail("detail [/y]")
    output.outcome(Outcome(tables=[TABLE]))
    output.error(Refused("two-words", "It failed."))


def test_a_terminal_shows_colour(at_terminal: Terminal) -> None:
    seen = at_terminal(show_all)

    assert len(COLOUR.findall(seen)) >= 3
    assert "\x1b[32mrunning" in seen
    assert "\x1b[31munhealthy" in seen


def test_progress_on_a_terminal_takes_words_as_they_are(at_terminal: Terminal) -> None:
    def work(output: Output) -> None:
        with output.progress("working [/bin/sh] :cat:"):
            pass

    assert "working [/bin/sh] :cat:" in at_terminal(work)


def test_a_bar_shows_what_is_through_and_goes_when_its_length_is_not_known(at_terminal: Terminal) -> None:
    def through(output: Output) -> None:
        with output.progress("pushing") as progress:
            progress.amount("pushing layers", 1, 4)

    def after(output: Output) -> None:
        with output.progress("pushing") as progress:
            progress.amount("pushing layers", 1, 4)
            progress.step("the next step")

    assert "25 %" in at_terminal(through)
    last = at_terminal(after).rpartition("the next step")[2]
    assert "%" not in last
    assert "━" not in last


def test_a_line_that_is_said_meanwhile_stands_by_itself(at_terminal: Terminal) -> None:
    def work(output: Output) -> None:
        with output.progress("pushing") as progress:
            progress.amount("pushing layers", 1, 4)
            output.say("said [/meanwhile] :cat:")

    lines = [line.rpartition("\x1b[2K")[2] for line in at_terminal(work).splitlines()]

    assert "said [/meanwhile] :cat:" in [line.strip() for line in lines]


@pytest.mark.parametrize("unwanted", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_a_terminal_that_wants_no_colour_gets_none(
    unwanted: dict[str, str], at_terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in unwanted.items():
        monkeypatch.setenv(name, value)

    seen = at_terminal(show_all)

    assert (COLOUR.findall(seen), "unhealthy" in seen) == ([], True)


def test_there_is_no_escape_sequence_off_a_terminal(plain: Streams, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR")
    show_all(plain.output)

    assert [stream for stream in plain.written if "\x1b" in stream] == []
