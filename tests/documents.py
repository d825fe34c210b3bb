"""Find the commands in the documents, as a reader would."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.stacks import ROOT

__all__ = ["Command", "commands", "documents", "lines"]

_FENCE = re.compile(r"^\s*```(\w*)")
_SPAN = re.compile(r"`([^`]+)`")
_ENDS = re.compile(r"\s+#.*$|\s*(?:&&|\|\||[|;<>]).*$")


@dataclass(frozen=True)
class Command:
    """One command of a document.

    Attributes:
        text: as written there.
        line: from 1.
    """

    text: str
    line: int

    @property
    def words(self) -> list[str]:
        """Return its words, including optional ones, but without what a shell does with the output."""
        return shlex.split(_ENDS.sub("", re.sub(r"\[(.+?)\]", r"\1", self.text.replace("\\|", "|"))))


def documents() -> list[Path]:
    """Return every document for people, except the list of changes."""
    return sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])


def lines(text: str) -> Iterator[str]:
    """Yield the lines of a document's shell blocks, without comments."""
    for block in re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", "").splitlines():
            if typed := re.sub(r"\s+#.*", "", re.sub(r"\s+", " ", line)).strip():
                yield typed


def commands(text: str, program: str = "invoke") -> Iterator[Command]:
    """Yield the commands that a document says to type, in order: code in sentences and tables, and shell lines."""
    # Join continued lines without changing line numbers.
    text = re.sub(r"\\\n\s*(.*)", r"\1\n", text)
    fenced: str | None = None
    for number, line in enumerate(text.splitlines(), 1):
        if fence := _FENCE.match(line):
            fenced = fence[1] if fenced is None else None
            continue
        found = [line.strip()] if fenced is not None else _SPAN.findall(line)
        for code in found:
            for part in re.split(r"\s*(?:&&|;)\s+", code):
                if re.match(rf"{program} [a-z]", part):
                    yield Command(part, number)
