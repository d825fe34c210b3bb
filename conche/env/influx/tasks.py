"""invoke env.influx.*"""

from typing import Annotated

from conche.command import EnvironmentName, Invocation, command
from conche.outcome import Outcome


@command(changes=True, destroys=True, waits=True)
def prune(
    invocation: Invocation,
    older_than: Annotated[str, "an age, such as 90d"],
    env: EnvironmentName = "prod",
    bucket: Annotated[list[str], "only this bucket; may be given again; default: all"] = (),  # type: ignore[assignment]
    confirm: Annotated[str | None, "name of a protected environment, instead of typing it"] = None,
) -> Outcome:
    """Delete old measurements; counts them first.

    Nothing brings them back but a backup. A backup that is slow is no reason: the data are compressed already.
    """
    from conche.env.influx.prune import prune

    return prune(invocation, older_than, env, buckets=bucket, confirm=confirm)
