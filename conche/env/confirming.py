"""Asks before a task stops an environment or deletes from it; a protected one wants its name."""

from __future__ import annotations

from conche.command import Invocation
from conche.errors import Refused

__all__ = ["confirm_on"]


def confirm_on(call: Invocation, name: str, question: str, confirmed: str | None) -> None:
    """Go on only if that is meant.

    For a protected environment its name is typed, or given with --confirm: --yes alone would be said for any of them.

    Args:
        confirmed: what --confirm says.

    Raises:
        Refused: it says another name, or nobody answers the question with the right word.
    """
    protected = call.environment(name).protected
    if confirmed is not None and confirmed != name:
        raise Refused("not-confirmed", f"--confirm {confirmed} is not the name of the environment, {name}.")
    if confirmed == name or (call.yes and not protected):
        return
    if protected:
        call.output.confirm(question, expected=name, option=f"--confirm {name}")
    else:
        call.output.confirm(question)
