"""invoke ci.runner.*"""

from typing import Annotated

from conche.command import Invocation, command
from conche.outcome import Outcome


@command()
def token(
    invocation: Invocation,
    show: Annotated[bool, "on a terminal too"] = False,
) -> Outcome:
    """The server's token for a new runner elsewhere."""
    from conche.ci.runner.token import token

    return token(invocation, show=show)


@command(changes=True, waits=True)
def up(
    invocation: Invocation,
    timeout: Annotated[float | None, "seconds to wait for health; default: what the healthchecks allow"] = None,
) -> Outcome:
    """Register the runners and bring them up.

    Their image is built where it is missing, and their environment is brought up first.
    """
    from conche.ci.runner.up import up

    return up(invocation, timeout=timeout)


@command()
def status(invocation: Invocation) -> Outcome:
    """The runners, as the engine and the server see them."""
    from conche.ci.runner.status import status

    return status(invocation)


@command()
def logs(
    invocation: Invocation,
    runner: Annotated[str | None, "one runner; default: all"] = None,
    follow: Annotated[bool, "go on until Ctrl-C, for one runner"] = False,
    tail: Annotated[int, "lines of each"] = 100,
) -> Outcome:
    """What the runners write."""
    from conche.ci.runner.logs import logs

    return logs(invocation, runner, follow=follow, tail=tail)
