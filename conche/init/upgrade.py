"""conche upgrade: write stack.yaml in the present format, and change nothing in it but what has another name now."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import SequenceMatcher
from itertools import islice
from pathlib import Path

import yaml

from conche import shallow_yaml
from conche.command import Invocation
from conche.errors import Refused
from conche.files import write_atomic
from conche.outcome import Action, Kind, Outcome, Plan, Step, Table
from conche.stack import FILE, StackInvalid, StackProblem, load, parse
from conche.stack.model import FORMAT
from conche.stack.reading import MOST_KEYS, keys_of
from conche.stack.replaced import replaced
from conche.texts import read_text

__all__ = ["upgrade", "with_format", "with_new_names"]


def upgrade(call: Invocation) -> Outcome:
    """Give renamed keys their new names, and write the number of the format.

    Raises:
        StackInvalid: the file has other problems, or keys that were removed: what to write instead is in the error.
        Refused: there is no such file, it has a later format, or it was changed meanwhile. Nothing was written.
    """
    file = call.root / FILE
    if not file.exists():
        load(call.root)
    before = read_text(file, FILE)
    try:
        renamed = with_new_names(before)
    except (yaml.YAMLError, RecursionError):
        renamed = before
    # Renaming moves no line, so the problems that remain are named with the lines of the file as it is.
    parse(renamed, root=call.root)
    after = with_format(renamed)
    parse(after, root=call.root)
    changes = list(_changes(before, after))
    if not changes:
        return Outcome(value=[], lines=[f"Nothing to do: {FILE} is of format {FORMAT}, and has no renamed key."])
    plan = Plan((Step(Action.WRITE, Kind.FILE, FILE, f"format {FORMAT}"),))
    if not call.dry_run:
        _replace(file, before, after)
    rows = tuple((str(line), now or "-", then) for line, now, then in changes)
    return Outcome(
        value=[{"line": line, "now": now, "then": then} for line, now, then in changes],
        changed=not call.dry_run,
        plan=plan,
        tables=[Table(("line", "was" if not call.dry_run else "is", "becomes"), rows)],
        lines=[] if call.dry_run else [f"Next: git diff {FILE}"],
    )


def with_new_names(text: str) -> str:
    """Return a stack file's text with the new names of keys; everything else stays as it is written.

    Raises:
        StackInvalid: a key and its new name are both there.
    """
    node = shallow_yaml.compose(text)
    # What is longer than that is refused when it is read.
    keys = list(islice(keys_of(node), MOST_KEYS)) if node is not None else []
    there = {path for path, _ in keys}
    found: dict[int, tuple[int, str]] = {}
    for path, key in keys:
        change = replaced(path)
        if change is None or not change.name:
            continue
        if (*path[:-1], change.name) in there:
            why = f"{change.name}, its new name, is there too: keep one of the two"
            raise StackInvalid([StackProblem(key.start_mark.line + 1, ".".join(map(str, path)), why)], Path(FILE))
        # A mapping that an alias repeats is in the text once.
        found[key.start_mark.index] = (key.end_mark.index, change.name)
    for start, (end, name) in sorted(found.items(), reverse=True):
        text = text[:start] + name + text[end:]
    return text


def with_format(text: str) -> str:
    """Return a valid stack file's text with the number of the present format, after `name` if it had none."""
    node = shallow_yaml.compose(text)
    assert isinstance(node, yaml.MappingNode)
    values = {key.value: (key, value) for key, value in node.value}
    if "format" in values:
        _, value = values["format"]
        number = str(FORMAT)
        return text if value.value == number else text[: value.start_mark.index] + number + text[value.end_mark.index :]
    key, value = values["name"]
    if node.flow_style:
        start = key.start_mark.index
        return f"{text[:start]}format: {FORMAT}, {text[start:]}"
    lines = text.splitlines(keepends=True)
    end = "\r\n" if lines[key.start_mark.line].endswith("\r\n") else "\n"
    at = value.end_mark.line + (value.end_mark.column > 0)
    lines[at - 1] = lines[at - 1].rstrip("\r\n") + end
    lines.insert(at, f"{' ' * key.start_mark.column}format: {FORMAT}{end}")
    return "".join(lines)


def _changes(before: str, after: str) -> Iterator[tuple[int, str, str]]:
    """Yield the number of each changed line, its text and its new text; empty for a line that is new."""
    old, new = before.splitlines(), after.splitlines()
    for kind, start, end, first, last in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if kind == "equal":
            continue
        for number in range(max(end - start, last - first)):
            was = old[start + number] if start + number < end else ""
            becomes = new[first + number] if first + number < last else ""
            yield start + number + 1, was, becomes


def _replace(file: Path, before: str, after: str) -> None:
    if read_text(file, FILE) != before:
        raise Refused(
            "changed-meanwhile",
            f"{FILE} was changed by someone else meanwhile; nothing was written.",
            looked_at=[str(file)],
            next_command="conche upgrade",
        )
    place = file.resolve()
    try:
        write_atomic(place, after.encode())
    except OSError as error:
        raise Refused(
            "file-unwritable",
            f"{FILE} cannot be written: {error.strerror}.",
            looked_at=[str(file)],
            next_command=f"ls -ld '{place.parent}'",
        ) from error
