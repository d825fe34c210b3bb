"""invoke ci.runner.*"""

from typing import TYPE_CHECKING, Annotated

from conche.command import Invocation, command

if TYPE_CHECKING:
    from conche.outcome import Outcome


@command()
def token(
    invocation: Invocation,
    show: Annotated[bool, "show it on a terminal too"] = False,
) -> "Outcome":
    """Print the server's token for registering a runner elsewhere."""
    from conche.ci.runner.token import token

    return token(invocation, show=show)


@command(changes=True, waits=True)
def up(
    invocation: Invocation,
    timeout: Annotated[float | None, "seconds to wait for health; default: what the healthchecks allow"] = None,
) -> "Outcome":
    """Register the runners and bring them up.

    Builds their image if it is missing or its sources have changed, and brings their environment up first.
    """
    from conche.ci.runner.up import up

    return up(invocation, timeout=timeout)


@command()
def status(invocation: Invocation) -> "Outcome":
    """Show the runners as the engine and the server see them."""
    from conche.ci.runner.status import status

    return status(invocation)


@command()
def logs(
    invocation: Invocation,
    runner: Annotated[str | None, "one runner; default: all"] = None,
    follow: Annotated[bool, "follow one runner until Ctrl-C"] = False,
    tail: Annotated[int, "last lines of each runner"] = 100,
) -> "Outcome":
    """Show the runners' logs."""
    from conche.ci.runner.logs import logs

    return logs(invocation, runner, follow=follow, tail=tail)
