"""Reads plaintext to import: YAML, JSON or dotenv, accepted whole or refused with the offending line.

The source may be deleted afterwards, so nothing in it is guessed or skipped. Errors may show a name, which will be in
clear in the encrypted file too; if a name cannot be told from a value, they show only the line.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import yaml
from dotenv.parser import Binding, parse_stream

from conche import shallow_yaml
from conche.errors import Refused
from conche.secret import Secret
from conche.vault.encrypted import NAME

__all__ = ["read"]

_VARIABLE = re.compile(r"[A-Za-z][A-Za-z0-9_]*")

_SWALLOWED = re.compile(r"\n[ \t]*(?:export[ \t]+)?(?:[A-Za-z_]\w*=[^=\s]|[A-Z_][A-Z0-9_]*=\Z)")
"""Text like a further variable inside a quoted value: the value's closing quote is missing."""

_SURROGATE = re.compile(r"[\ud800-\udfff]")

_TEXT = "tag:yaml.org,2002:str"


@dataclass(frozen=True)
class _Entry:
    """One name with its value and its place: `line 3`, or in JSON `entry 3`."""

    where: str
    name: str
    value: str = field(repr=False)


def read(content: bytes, file: str) -> dict[str, Secret]:
    """Return the values of a plaintext file, each as the text that is written there: 007 stays 007.

    Args:
        file: its name, which tells the format: `.env…` and `….env` are dotenv, `….json` is JSON, the rest is YAML.

    Raises:
        Refused: a part of it cannot be taken unchanged.
    """
    text = _text(content, file)
    if file.endswith(".json"):
        entries = list(_json(text, file))
    elif Path(file).name.startswith(".env") or file.endswith(".env"):
        entries = list(_dotenv(text, file))
    else:
        entries = list(_yaml(text, file))
    if not entries:
        raise _refused(file, "has no values")
    _check(entries, file)
    return {entry.name: Secret(entry.value) for entry in entries}


def _check(entries: list[_Entry], file: str) -> None:
    if wrong := [entry.where for entry in entries if not NAME.fullmatch(entry.name)]:
        # The names are not repeated: in a malformed file, a value may be where a name belongs.
        raise Refused(
            "secret-name-unusable",
            f"{file} has invalid names of secrets: {', '.join(wrong)}. Nothing was written.",
            looked_at=["a name has lower-case letters, digits and _; it is not sops…, not …_unencrypted"],
        )
    counted = Counter(entry.name for entry in entries)
    if twice := [name for name, count in counted.items() if count > 1]:
        said = "; ".join(f"{name}: {_places(entries, name)}" for name in twice)
        raise _refused(file, f"has names more than once, ignoring case ({said})")
    if wrong := [entry.name for entry in entries if "\0" in entry.value or _SURROGATE.search(entry.value)]:
        raise Refused(
            "value-not-text",
            f"The value of {', '.join(wrong)} in {file} is not text. Nothing was written.",
            next_command="encode it in base64 and decode it where it is used",
        )


def _places(entries: Iterable[_Entry], name: str) -> str:
    return ", ".join(entry.where for entry in entries if entry.name == name)


def _text(content: bytes, file: str) -> str:
    """Decode UTF-8, whatever the locale, without Windows' byte order mark; UTF-16 is detected by its NULs."""
    wrong, text = content.find(b"\0"), ""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        wrong = error.start
    if wrong >= 0:
        line = content[:wrong].count(b"\n") + 1
        raise Refused(
            "value-not-text",
            f"Line {line} of {file} is not UTF-8 text. Nothing was written.",
            next_command="save the file as UTF-8; encode a binary value in base64, and decode it where used",
        )
    return text


def _dotenv(text: str, file: str) -> Iterator[_Entry]:
    bindings = [(_line(one), one) for one in parse_stream(StringIO(text))]
    unread = [line for line, one in bindings if one.error or (one.key is not None and one.value is None)]
    unread += [line for line, one in bindings if one.value is not None and _SWALLOWED.search(one.value)]
    if unread:
        raise _refused(file, f"is not a list of NAME=value in line {_listed(unread)}: a quote or `=` is missing")
    for line, one in bindings:
        if one.key is not None and one.value is not None:
            yield _Entry(f"line {line}", one.key.lower() if _VARIABLE.fullmatch(one.key) else "", one.value)


def _line(binding: Binding) -> int:
    """Return the line where a binding begins; the parser includes the empty lines before it."""
    text = binding.original.string
    return binding.original.line + text[: len(text) - len(text.lstrip())].count("\n")


def _json(text: str, file: str) -> Iterator[_Entry]:
    try:
        # A list of pairs, so that repeated names are noticed.
        loaded = json.loads(text, object_pairs_hook=_Pairs)
    except json.JSONDecodeError as error:
        raise _refused(file, f"is not JSON in line {error.lineno}") from None
    except (ValueError, RecursionError):
        raise _refused(file, "is not JSON") from None
    if not isinstance(loaded, _Pairs):
        raise _refused(file, "is not one flat mapping of names to text")
    for number, (name, value) in enumerate(loaded, 1):
        if not isinstance(value, str):
            said = name if NAME.fullmatch(name) else "its value"
            raise _refused(file, f"is not one flat mapping of names to text: in entry {number}, {said} is not text")
        yield _Entry(f"entry {number}", name, value)


class _Pairs(list[tuple[str, Any]]):
    """A JSON object as pairs, distinct from a JSON array."""


def _yaml(text: str, file: str) -> Iterator[_Entry]:
    try:
        node = shallow_yaml.compose(text, yaml.BaseLoader)
    except (yaml.YAMLError, RecursionError) as error:
        # Its message would repeat the line, which may hold a value.
        raise _refused(file, f"is not YAML{_marked(error, text)}") from None
    if not isinstance(node, yaml.MappingNode):
        hint = "; name a file of NAME=value lines ….env" if _SWALLOWED.search(f"\n{text}") else ""
        raise _refused(file, f"is not one flat mapping of names to text{hint}")
    wrong = [key.start_mark.line + 1 for key, value in node.value if not (_is_text(key) and _is_text(value))]
    if wrong:
        raise _refused(file, f"is not one flat mapping of names to text: line {_listed(wrong)}")
    for key, value in node.value:
        yield _Entry(f"line {key.start_mark.line + 1}", key.value, value.value)


def _is_text(node: yaml.Node) -> bool:
    """Return whether a node is a scalar without a tag such as !!binary, which would change the meaning of its text."""
    return isinstance(node, yaml.ScalarNode) and node.tag == _TEXT


def _marked(error: Exception, text: str) -> str:
    mark = getattr(error, "problem_mark", None)
    if mark is not None:
        return f" in line {mark.line + 1}"
    position = getattr(error, "position", None)
    return "" if position is None else f" in line {text[:position].count(chr(10)) + 1}"


def _listed(lines: Iterable[int]) -> str:
    return ", ".join(str(line) for line in sorted(set(lines)))


def _refused(file: str, how: str) -> Refused:
    return Refused(
        "plaintext-not-flat",
        f"{file} {how}. Nothing was written.",
        looked_at=[file],
        next_command="correct the file, and try again\ninvoke secrets.set NAME    # for a value that it cannot hold",
    )
