"""invoke doctor"""

from typing import TYPE_CHECKING, Annotated

from conche.command import Invocation, command

if TYPE_CHECKING:
    from conche.outcome import Outcome


@command()
def doctor(
    invocation: Invocation,
    report: Annotated[str | None, "a file for a bug report: versions and findings, without names or secrets"] = None,
) -> "Outcome":
    """Check every prerequisite: found, needed, next command."""
    from conche.doctor.doctor import doctor

    return doctor(invocation, report)
