"""invoke env.influx.*"""

from typing import TYPE_CHECKING, Annotated

from conche.command import EnvironmentName, Invocation, command

if TYPE_CHECKING:
    from conche.outcome import Outcome


@command(changes=True, destroys=True, waits=True)
def prune(
    invocation: Invocation,
    older_than: Annotated[str, "minimum age, such as 90d"],
    env: EnvironmentName = "prod",
    bucket: Annotated[list[str], "only this bucket; may be repeated; default: all"] = (),  # type: ignore[assignment]
    confirm: Annotated[str | None, "name of a protected environment, instead of typing it when asked"] = None,
) -> "Outcome":
    """Delete old measurements; counts them first.

    Only a backup can bring them back. Slow backups are no reason to prune: the data are already compressed.
    """
    from conche.env.influx.prune import prune

    return prune(invocation, older_than, env, buckets=bucket, confirm=confirm)


@command(name="rotate-token", changes=True, destroys=True, waits=True)
def rotate_token(
    invocation: Invocation,
    env: EnvironmentName = "prod",
    finish: Annotated[bool, "revoke the old token, once everybody has the new one"] = False,
) -> "Outcome":
    """Make a new operator token for InfluxDB, and store it; the old one stays valid until --finish.

    In between, deploy: --finish refuses while a container has the old token.
    """
    from conche.env.influx.rotate_token import rotate_token

    return rotate_token(invocation, env, finish=finish)


@command(changes=True, destroys=True, waits=True)
def token(
    invocation: Invocation,
    env: EnvironmentName = "prod",
    read_only: Annotated[bool, "a token that can only read"] = False,
    secret: Annotated[str, "the secret that it becomes"] = "influxdb_token_dev",  # noqa: S107 - a name
) -> "Outcome":
    """Make a token with which another environment reads this one's InfluxDB, and store it.

    It is proven first: it reads, and a write is refused.
    """
    from conche.env.influx.token import token

    return token(invocation, env, secret=secret, read_only=read_only)
