"""Reads a value from a person or a pipe; never from a command line, which every user of the machine can read."""

from __future__ import annotations

import getpass
import sys

from conche.errors import Refused
from conche.output import at_terminal
from conche.secret import Secret

__all__ = ["as_text", "ask", "trimmed"]


def ask(what: str, *, raw: bool = False) -> Secret:
    """Return what a person types twice, or what a pipe delivers, without the newline that `echo` adds unless `raw`."""
    if at_terminal(sys.stdin):
        text = _typed(f"{what}: ")
        if text != _typed(f"{what} again: "):
            raise Refused("values-differ", "The two values differ; nothing was written.")
        return Secret(text)
    text = as_text(sys.stdin.buffer.read(), "standard input")
    return Secret(text if raw else trimmed(text))


def _typed(prompt: str) -> str:
    try:
        return getpass.getpass(prompt)
    except EOFError:
        # Ctrl-D leaves the cursor on the prompt's line.
        sys.stderr.write("\n")
        raise Refused("input-ended", "The input ended before there was an answer; nothing was written.") from None


def trimmed(text: str) -> str:
    """Remove the newline that ends a single line; a text of several lines keeps its own, since a key ends with one."""
    line = text.removesuffix("\n")
    return text if "\n" in line else line


def as_text(content: bytes, source: str) -> str:
    """Decode a secret as UTF-8, whatever the locale's encoding is.

    Raises:
        Refused: it is not text.
    """
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise Refused(
            "value-not-text",
            f"{source} is not UTF-8 text; nothing was written.",
            next_command="encode it in base64 and decode it where it is used",
        ) from None
