"""ci.runner.token: the server's token for a new runner elsewhere."""

from __future__ import annotations

import sys

from conche.ci.forge import connect
from conche.command import Invocation
from conche.errors import Refused
from conche.outcome import Outcome
from conche.output import at_terminal

__all__ = ["token"]


def token(call: Invocation, *, show: bool) -> Outcome:
    """Print the server's registration token: into a pipe as it is, on a terminal only with `show`."""
    if at_terminal(sys.stdout) and not show:
        raise Refused(
            "value-not-shown",
            "The token is not shown on a terminal: anyone who has it can register a runner and receive your jobs.",
            next_command="invoke ci.runner.token --show\ninvoke ci.runner.token | wc -c",
        )
    value = connect(call).registration_token().reveal()
    return Outcome(value={"token": value}, raw=value)
