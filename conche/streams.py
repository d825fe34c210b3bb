"""Standard streams whose write errors never abort a command.

A reader may leave, a disk may be full, a terminal may lack a character: the work is still done, and the exit code has
to say so.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import sys
from pathlib import Path
from typing import Any, TextIO, cast

from conche.errors import Unreachable

__all__ = ["AnswerLost", "StandardOutput", "answer", "remarks", "typed"]

LOOKALIKES = str.maketrans(
    {"─": "-", "━": "-", "…": "...", "→": "->", "–": "-", "—": "-", "’": "'", "‘": "'", "“": '"', "”": '"', "•": "*"}  # noqa: RUF001
)
"""Replacements for characters that a stream's encoding lacks; any other becomes a question mark."""

REPLACING = "conche-replacing"


class AnswerLost(Unreachable):
    """Standard output cannot be written to any more: its reader has left, or its disk is full.

    Args:
        error: the system's error.
    """

    def __init__(self, error: OSError) -> None:
        self.reader_left = error.errno == errno.EPIPE
        super().__init__(
            "answer-not-written",
            f"The answer could not be written to standard output: {error.strerror}.",
            next_command="run it again with its output elsewhere",
        )

    @property
    def status(self) -> int:
        """141 if the reader has left, the exit code that shells give to a process ended by SIGPIPE."""
        return 141 if self.reader_left else self.exit_code


class _Stream:
    """A text stream that records its first failure instead of raising it, and drops everything from then on."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.lost: AnswerLost | None = None
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=REPLACING)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write text, or drop it after a failure."""
        try:
            return self._stream.write(text) if self.lost is None else len(text)
        except OSError as error:
            self._lose(error)
            return len(text)

    def flush(self) -> None:
        """Flush the stream, recording a failure instead of raising it."""
        try:
            self._stream.flush()
        except OSError as error:
            self._lose(error)

    def _lose(self, error: OSError) -> None:
        self.lost = self.lost or AnswerLost(error)
        # Otherwise Python would try to flush the stream's remaining text at exit, and exit with 120.
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), self._stream.fileno())


class StandardOutput(_Stream):
    """Standard output."""

    @property
    def is_unicode(self) -> bool:
        """Whether its encoding has every character."""
        return codecs.lookup(self._stream.encoding or "utf-8").name.startswith("utf")


def answer(stream: TextIO | None) -> StandardOutput:
    """Return standard output, or the given stream."""
    return StandardOutput(stream or _or_nowhere(sys.stdout))


def remarks(stream: TextIO | None) -> TextIO:
    """Return standard error, or the given stream; what cannot be written is dropped, and the command goes on.

    A closed terminal sends SIGHUP and accepts no more output; the unwinding must not stop at its first message.
    """
    return cast(TextIO, _Stream(stream or _or_nowhere(sys.stderr)))


def typed(stream: TextIO | None) -> TextIO:
    """Return standard input, or the given stream."""
    return stream or _or_nowhere(sys.stdin)


def _or_nowhere(stream: TextIO | None) -> TextIO:
    """Return the stream, or one on /dev/null: Python has none if the descriptor was closed before it started."""
    if stream is not None:
        return stream
    # Otherwise the next opened file would get a standard stream's descriptor, and be written to as that stream.
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        continue
    return os.fdopen(number, "r+", encoding="utf-8")


def _replaced(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end].translate(LOOKALIKES)
    return "".join(one if one.isascii() else "?" for one in missing), error.end


codecs.register_error(REPLACING, _replaced)
