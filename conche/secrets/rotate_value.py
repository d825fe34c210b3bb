"""invoke secrets.rotate-value"""

from __future__ import annotations

from conche.command import Invocation
from conche.outcome import Action, Outcome
from conche.secrets.set import ValueSource, kept_by_server, set_

__all__ = ["rotate_value"]


def rotate_value(call: Invocation, name: str, *, from_file: str | None) -> Outcome:
    """Give one secret a new value: generated if its declaration says how, else asked for.

    Raises:
        Refused: a server keeps it, and would go on by the old value.
    """
    assert call.stack.secrets is not None
    declared = call.stack.secrets.declared.get(name)
    if declared is not None and declared.renew and from_file is None:
        raise kept_by_server(name, declared)
    made = declared is not None and declared.generate is not None and from_file is None
    if declared is not None and declared.source and not made:
        call.output.say(f"{name} comes from: {declared.source}")
    return set_(call, name, ValueSource(from_file, made), Action.ROTATE_VALUE)
