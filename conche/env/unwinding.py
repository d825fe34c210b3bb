"""Takes back what was begun, newest first, retries each step, and reports what could not be taken back."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from conche.errors import Interrupted, NotRestored, Partial, Refused, Restored, Told

__all__ = ["Undo", "told", "unwind"]

Undo = tuple[str, Callable[[], None]]
"""What it does, in words, and the function that does it."""

AGAIN = 30.0
"""Seconds for which taking a step back is retried."""

ENGINE_BACK = 60.0
"""Seconds to wait for a restarting engine before unwinding."""

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
    """Take steps back, the newest first, and return what could not be taken back, in words.

    Each is retried for a while: an engine that is restarted answers until it is down, and refuses.

    Args:
        wait_ready: called before each try; returns once the engine answers, or is given up.
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
    """Return the error to show: the first one, and whether what there was before was restored.

    Args:
        problems: what was not restored.
        begun: whether anything that people notice had been begun.
        by_hand: the commands with which people go on if something was not restored.
    """
    if not isinstance(error, Told):
        for problem in problems:
            error.add_note(problem)
        return error
    if problems:
        return NotRestored(
            "previous-state-lost",
            f"{error.message} What worked before could not be restored.",
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
