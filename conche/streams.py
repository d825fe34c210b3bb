"""Standard streams on which what cannot be written never undoes what was done.

A reader may leave, a disk may be full, a terminal may lack the character: the work is done all the same, and its exit
code has to say so.
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

__all__ = ["Answer", "AnswerLost", "answer", "remarks", "typed"]

LOOKALIKES = str.maketrans(
    {"─": "-", "━": "-", "…": "...", "→": "->", "–": "-", "—": "-", "’": "'", "‘": "'", "“": '"', "”": '"', "•": "*"}  # noqa: RUF001
)
"""What is written instead, where a stream's encoding lacks the character; of any other, a question mark."""

REPLACING = "conche-replacing"


class AnswerLost(Unreachable):
    """Standard output takes no more: its reader has left, or its disk is full.

    Args:
        error: what the system said.
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
        """141 where the reader has left, as shells count a process that SIGPIPE ended."""
        return 141 if self.reader_left else self.exit_code


class _Stream:
    """A text stream whose failure is kept rather than raised; from then on, what is written there is dropped."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.lost: AnswerLost | None = None
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=REPLACING)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write; what fails is dropped."""
        try:
            return self._stream.write(text) if self.lost is None else len(text)
        except OSError as error:
            self._lose(error)
            return len(text)

    def flush(self) -> None:
        """Flush; what fails is dropped."""
        try:
            self._stream.flush()
        except OSError as error:
            self._lose(error)

    def _lose(self, error: OSError) -> None:
        self.lost = self.lost or AnswerLost(error)
        # Python would try once more at its end with what the stream holds still, and exit with 120.
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), self._stream.fileno())


class Answer(_Stream):
    """Standard output."""

    @property
    def is_unicode(self) -> bool:
        """Whether every character can be written."""
        return codecs.lookup(self._stream.encoding or "utf-8").name.startswith("utf")


def answer(stream: TextIO | None) -> Answer:
    """Standard output, or the stream that is given."""
    return Answer(stream or _or_nowhere(sys.stdout))


def remarks(stream: TextIO | None) -> TextIO:
    """Standard error, or the stream that is given: what is said when nobody hears it is lost, and the command goes on.

    A terminal that is closed sends SIGHUP and takes no more words; the unwinding must not end at the first of them.
    """
    return cast(TextIO, _Stream(stream or _or_nowhere(sys.stderr)))


def typed(stream: TextIO | None) -> TextIO:
    """Standard input, or the stream that is given."""
    return stream or _or_nowhere(sys.stdin)


def _or_nowhere(stream: TextIO | None) -> TextIO:
    """Python has no stream where the descriptor was closed before it started."""
    if stream is not None:
        return stream
    # The next file that is opened would get the number of a standard stream, and be written to as one.
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        continue
    return os.fdopen(number, "r+", encoding="utf-8")


def _replaced(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end].translate(LOOKALIKES)
    return "".join(one if one.isascii() else "?" for one in missing), error.end


codecs.register_error(REPLACING, _replaced)
