"""invoke doctor"""

from __future__ import annotations

from conche.command import Invocation, command
from conche.outcome import Outcome


@command()
def doctor(invocation: Invocation) -> Outcome:
    """Every prerequisite with what was found, what is needed and the next command."""
    from conche.doctor.checks import examine

    return examine(invocation)
