"""Taking back what was begun: newest first, each tried until it succeeds, and what could not be is said."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from conche.errors import Interrupted, NotRestored, Partial, Refused, Restored, Told

__all__ = ["Undo", "told", "unwind"]

Undo = tuple[str, Callable[[], None]]
"""What it does, in words, and the doing."""

AGAIN = 30.0
"""Seconds in which a step that cannot be taken back is tried again."""

PAUSE = 0.3
"""Seconds between two tries."""


def unwind(
    undo: Sequence[Undo],
    say: Callable[[str], None],
    wait_ready: Callable[[], None],
    *,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> list[str]:
    """Take steps back, the newest first; what could not be taken back, in words.

    Each is tried until it succeeds, for a while: an engine that is restarted answers until it is down, and refuses.

    Args:
        wait_ready: called before each try; returns when the engine can be asked, or is given up.
    """
    problems = []
    for description, act in reversed(undo):
        say(f"unwinding: {description}")
        deadline = clock() + AGAIN
        while True:
            wait_ready()
            try:
                act()
            except (Exception, Told) as error:  # noqa: BLE001 - one that fails must not keep the others from it
                if clock() > deadline:
                    problems.append(f"could not {description}: {error}")
                    break
                pause(PAUSE)
            else:
                break
    return problems


def told(error: BaseException, problems: Sequence[str], *, begun: bool, by_hand: str) -> BaseException:
    """The error to show: the first one, and whether what it found was restored.

    Args:
        problems: what was not.
        begun: whether anything that people notice had been.
        by_hand: the commands with which they go on where it was not.
    """
    if not isinstance(error, Told):
        for problem in problems:
            error.add_note(problem)
        return error
    if problems:
        return NotRestored(
            "previous-state-lost",
            f"{error.message} What worked before could not be brought back.",
            looked_at=error.looked_at,
            evidence=[*problems, *error.evidence],
            next_command=by_hand,
        )
    if isinstance(error, Partial | Restored | Refused | Interrupted) or not begun:
        return error
    return Restored(
        error.code,
        f"{error.message} What served before still serves.",
        looked_at=error.looked_at,
        evidence=error.evidence,
        next_command=error.next_command,
    )
