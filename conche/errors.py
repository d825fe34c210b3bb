"""The error tree and the exit codes.

    Told
    ├── ConcheError
    │   ├── CheckFailed    1  a check, verify or scan found something
    │   ├── Refused        2  nothing was changed: usage, stack file, preflight
    │   ├── Partial        3  some components failed, the rest is kept and reported
    │   ├── Restored       4  failed; the previous state was restored and verified
    │   ├── NotRestored    5  failed; the previous state could not be restored
    │   ├── NotFound       6  no such release, backup, secret, environment
    │   ├── Locked         7  somebody else is at work
    │   ├── KeyUnusable    8  no usable key, or secrets damaged or tampered with
    │   └── Unreachable    9  the engine, a registry or a server cannot be reached, or a tool is missing
    └── Interrupted        128 + signal, after unwinding

Every error has a fixed kebab-case code, which docs/reference/errors.md explains. This module imports no other module of
the toolkit, so that all of them can use it.
"""

from __future__ import annotations

import difflib
import re
import signal
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

__all__ = [
    "CheckFailed",
    "ConcheError",
    "Interrupted",
    "KeyUnusable",
    "Locked",
    "NotFound",
    "NotRestored",
    "Partial",
    "Refused",
    "Restored",
    "Told",
    "Unreachable",
    "did_you_mean",
]

_CODE = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)+")


class Told(BaseException):
    """Base of every error that is shown without a traceback.

    Args:
        code: kebab-case name of the fault, listed in docs/reference/errors.md.
        message: what happened, in one sentence.
        looked_at: where the toolkit looked, or what it saw, one line each.
        next_command: what to type next; several lines for several steps.
        evidence: a tool's own output or a container's last lines, unchanged.
    """

    exit_code: ClassVar[int] = 2

    def __init__(
        self,
        code: str,
        message: str,
        *,
        looked_at: Iterable[str] = (),
        next_command: str = "",
        evidence: Sequence[str] = (),
    ) -> None:
        if not _CODE.fullmatch(code):
            raise AssertionError(f"an error code is kebab-case of two words or more, not {code!r}")
        super().__init__(message)
        self.code = code
        self.message = message
        self.looked_at = tuple(looked_at)
        self.next_command = next_command
        self.evidence = tuple(evidence)

    @property
    def status(self) -> int:
        """The process's exit code if it ends with this error."""
        return self.exit_code

    def as_json(self) -> dict[str, object]:
        """Return the value of `error` in a command's JSON document."""
        return {
            "code": self.code,
            "message": self.message,
            "looked_at": list(self.looked_at),
            "next": self.next_command,
            "evidence": list(self.evidence),
            "exit_code": self.status,
        }


class ConcheError(Told, Exception):
    """A fault of the input or of the outside world, as opposed to a signal."""


class CheckFailed(ConcheError):
    """A check, verify or scan found something."""

    exit_code = 1


class Refused(ConcheError):
    """Refused before anything changed: usage, stack file, preflight."""

    exit_code = 2


class Partial(ConcheError):
    """Some components failed; the rest is kept and reported.

    Attributes:
        rest: what the command answers for the rest (`outcome.Outcome`); its JSON document has both.
    """

    exit_code = 3
    rest: Any = None


class Restored(ConcheError):
    """The command failed; the previous state was restored and verified."""

    exit_code = 4


class NotRestored(ConcheError):
    """The command failed, and the previous state could not be restored; `next_command` has the manual commands.

    Attributes:
        rest: what the command answers for what it has done all the same, as with `Partial`.
    """

    exit_code = 5
    rest: Any = None


class NotFound(ConcheError):
    """No such release, backup, secret, environment or service."""

    exit_code = 6


class Locked(ConcheError):
    """Somebody else is at work: who, where, since when, for what."""

    exit_code = 7


class KeyUnusable(ConcheError):
    """No usable key, or secrets damaged or tampered with."""

    exit_code = 8


class Unreachable(ConcheError):
    """The engine, a registry or a server cannot be reached, or a tool is missing."""

    exit_code = 9


class Interrupted(Told):
    """A signal ended the command; what it had begun was unwound.

    Not an `Exception`: code that handles faults and continues must not continue after a signal.
    """

    def __init__(self, received: signal.Signals) -> None:
        super().__init__("interrupted-by-signal", f"Interrupted by {received.name}.")
        self.received = received

    @property
    def status(self) -> int:
        """128 + the signal's number, as in shells."""
        return 128 + int(self.received)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `" Did you mean 'prod'?"`, or an empty string if nothing known is close to `word`."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" Did you mean {close[0]!r}?" if close else ""
