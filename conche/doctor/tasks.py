"""invoke doctor"""

from conche.command import Invocation, command
from conche.outcome import Outcome


@command()
def doctor(invocation: Invocation) -> Outcome:
    """Look at every prerequisite: found, needed, next command."""
    from conche.doctor.checks import examine

    return examine(invocation)
