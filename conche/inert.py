"""Makes text inert: nothing is left in it that a terminal would obey, or a CI runner would take for a command.

Names, labels, logs and other programs' errors come from strangers. In them a control sequence can clear the screen, set
the clipboard or hide what follows (https://invisible-island.net/xterm/ctlseqs/ctlseqs.html), and a line that begins
with `::` changes the environment of a workflow's later steps
(https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-commands). Such characters are shown as
Python escapes, so that one sees what was there.
"""

from __future__ import annotations

import re

__all__ = ["inert", "inert_json"]

_CONTROL = (
    "\x00-\x08\x0b-\x1f"  # all of C0 but tab and line feed
    "\x7f-\x9f"  # DEL and C1: in UTF-8, too, U+009B begins a control sequence
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # they reorder the text around them: Unicode's UAX #9
    "\u2028\u2029"
)
_COLOUR = re.compile(r"\x1b\[[0-9;:]*m")
_DRAWING = re.compile(r"(\x1b\[[0-9;:]*m|\x1b\[[012]?K)")
"""Colours, and the erasing of the line that is being written: Compose begins each line of a log with it."""

_LINE_END = re.compile(r"\r+(?=\n|$)")
_OBEYED = re.compile(f"[{_CONTROL}]")
_COMMAND = re.compile(r"^(\s*):(?=:[A-Za-z])", re.MULTILINE)
_OLD_COMMAND = re.compile(r"#(?=#\[)")
"""Runners also know an older form, `##[add-path]`; GitHub's finds it anywhere in a line."""


def inert(text: str, *, one_line: bool = False, colours: bool = False) -> str:
    """Return text with what a terminal or a runner would obey shown as escapes.

    Args:
        one_line: show line breaks as escapes too.
        colours: keep colours; otherwise they are dropped.
    """
    parts = _DRAWING.split(text) if colours else [_COLOUR.sub("", text)]
    parts[::2] = [_OBEYED.sub(_escape, _LINE_END.sub("", part)) for part in parts[::2]]
    shown = _COMMAND.sub(r"\1\\x3a", "".join(parts))
    shown = _OLD_COMMAND.sub(r"\\x23", shown)
    return shown.replace("\n", "\\n") if one_line else shown


def inert_json(document: str) -> str:
    """Return a JSON document with such characters escaped as JSON does it, so that its values stay the same.

    A line of it cannot begin with a command, since line breaks in values are escaped.
    """
    return _OLD_COMMAND.sub(r"\\u0023", _OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", document))


def _escape(found: re.Match[str]) -> str:
    number = ord(found[0])
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"
