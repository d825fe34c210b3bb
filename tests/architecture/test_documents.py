"""Whatever a document says to type is a task of ours, with options of its own and names that the stack has."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from conche.ci.workflows.invoked import TaskCall, reader
from conche.ci.workflows.runners import runners
from conche.ci.workflows.surroundings import sessions
from conche.engine.written import services
from conche.stack import KINDS, load
from tests.documents import commands, documents
from tests.e2e.old_commands import WALK
from tests.stacks import ROOT

READ = reader(ROOT)
EXAMPLE = "scripts/announce"
"""A hook of the reader's own."""

INCOMPLETE = "did not receive required positional arguments"


@functools.cache
def known() -> dict[str, set[str]]:
    """What an option may say, by its name."""
    stack = load(ROOT)
    assert stack.backup is not None
    files = {file for one in stack.environments.values() for file in one.compose}
    return {
        "env": set(stack.environments),
        "component": set(stack.backup.components),
        "accept_smaller": set(stack.backup.components),
        "kind": {*KINDS},
        "service": {one.name for file in files for one in services(ROOT / file)},
        "runner": {one.name for one in runners(ROOT, stack)},
    }


def unknown(call: TaskCall) -> Iterator[str]:
    """What a call names that this stack does not have; words in capitals are for the reader to fill in."""
    for name in call.given & known().keys():
        said = call.values[name]
        for one in said if isinstance(said, list) else [said]:
            if str(one) not in known()[name] and not str(one).isupper():
                yield f"--{name} {one}"


@pytest.mark.parametrize("file", documents(), ids=lambda file: str(file.relative_to(ROOT)))
def test_every_command_of_a_document_is_one(file: Path) -> None:
    wrong = []
    for command in commands(file.read_text()):
        reading = READ(command.words[1:])
        # Where a sentence only names a task.
        named = len(command.words) == 2 and INCOMPLETE in reading.complaint
        said = ("" if named else reading.complaint) or ", ".join(one for call in reading.calls for one in unknown(call))
        if said:
            wrong.append(f"{file.name}:{command.line}: {command.text}: {said}")

    assert wrong == []


@pytest.mark.parametrize("file", documents(), ids=lambda file: str(file.relative_to(ROOT)))
def test_every_script_and_session_of_a_document_is_there(file: Path) -> None:
    text = file.read_text()
    there = sessions(ROOT) or frozenset()

    scripts = set(re.findall(r"(?<![\w/])scripts/[\w-]+(?:\.sh)?", text))
    named = {one for said in re.findall(r"\bnox -s ((?:[a-z]\w* ?)+)", text) for one in said.split()}

    assert {one for one in scripts - {EXAMPLE} if not os.access(ROOT / one, os.X_OK)} == set()
    assert named <= there, named - there


def test_every_command_of_the_old_ones_page_is_walked_in_its_order() -> None:
    page = (ROOT / "docs/how-to/from-the-old-commands.md").read_text()

    assert [step.written for step in WALK] == [command.text for command in commands(page)]
