"""invoke env.*"""

from typing import TYPE_CHECKING, Annotated

from conche.command import EnvironmentName, Invocation, command

if TYPE_CHECKING:
    from conche.outcome import Outcome

Timeout = Annotated[float | None, "seconds to wait for health; default: what the healthchecks allow"]


@command(changes=True, waits=True)
def up(
    invocation: Invocation,
    env: EnvironmentName = "dev",
    build: Annotated[bool, "build this repository's images even if they exist"] = False,
    local: Annotated[bool, "deploy what the engine has, without asking the registry"] = False,
    timeout: Timeout = None,
) -> "Outcome":
    """Bring an environment up and wait until it is healthy.

    Builds or pulls missing images and leaves alone what works. A changed service is first tried
    beside the one that serves.
    """
    from conche.env.up import up

    return up(invocation, env, build=build, local=local, timeout=timeout)


@command(changes=True, destroys=True, waits=True, lenient=True)
def down(
    invocation: Invocation,
    env: EnvironmentName = "dev",
    volumes: Annotated[bool, "also delete the data; asks first"] = False,
    confirm: Annotated[str | None, "name of a protected environment, instead of typing it when asked"] = None,
) -> "Outcome":
    """Stop an environment and remove its containers, not its data."""
    from conche.env.down import down

    return down(invocation, env, volumes=volumes, confirm=confirm)


@command(lenient=True)
def status(
    invocation: Invocation,
    env: Annotated[str | None, "one environment; default: all"] = None,
) -> "Outcome":
    """Show services, health, revision and drift.

    Exits with 1 on drift or ill health; without --env, an environment that is down is not a fault.
    """
    from conche.env.status import status

    return status(invocation, env)


@command(lenient=True)
def logs(
    invocation: Invocation,
    env: EnvironmentName = "dev",
    follow: Annotated[bool, "follow until Ctrl-C"] = False,
    tail: Annotated[int, "last lines of each container"] = 100,
    service: Annotated[str | None, "one service; default: all"] = None,
) -> "Outcome":
    """Show the containers' logs."""
    from conche.env.logs import logs

    return logs(invocation, env, follow=follow, tail=tail, service=service)


@command()
def health(
    invocation: Invocation,
    env: EnvironmentName = "dev",
    wait: Annotated[bool, "retry until it answers 2xx"] = False,
    timeout: Annotated[float | None, "seconds to wait; default: 120"] = None,
) -> "Outcome":
    """Request the health URL from outside."""
    from conche.env.health import health

    return health(invocation, env, wait=wait, timeout=timeout)


@command()
def config(invocation: Invocation, env: EnvironmentName = "dev") -> "Outcome":
    """Print the rendered Compose files, secrets masked."""
    from conche.env.config import config

    return config(invocation, env)


@command(changes=True, waits=True)
def restart(
    invocation: Invocation,
    env: EnvironmentName = "dev",
    service: Annotated[str | None, "one service; default: all"] = None,
    timeout: Timeout = None,
) -> "Outcome":
    """Restart containers and wait until they are healthy."""
    from conche.env.restart import restart

    return restart(invocation, env, service, timeout=timeout)


@command(changes=True, waits=True)
def update(
    invocation: Invocation,
    service: Annotated[str, "the service to replace"],
    env: EnvironmentName = "dev",
    build: Annotated[bool, "build its image here instead of pulling it"] = False,
    timeout: Timeout = None,
) -> "Outcome":
    """Replace one service with its newest image.

    The image is pulled, or built here with --build or where no registry has it. Other services are not touched.
    """
    from conche.env.update import update

    return update(invocation, env, service, build=build, timeout=timeout)


@command(name="exec", lenient=True)
def exec_(
    invocation: Invocation,
    service: Annotated[str, "run it in this service's container"],
    env: EnvironmentName = "dev",
) -> "Outcome":
    """Run the command after `--` inside a container.

    Example: invoke env.exec --service fastapi-app-dev -- python --version
    """
    from conche.env.exec import exec_

    return exec_(invocation, env, service)


@command(changes=True, lenient=True)
def networks(
    invocation: Invocation,
    env: EnvironmentName = "dev",
    create: Annotated[bool, "create the missing ones"] = False,
) -> "Outcome":
    """List an environment's networks and what is in them."""
    from conche.env.networks import networks

    return networks(invocation, env, create=create)


@command(changes=True, waits=True)
def deploy(
    invocation: Invocation,
    env: EnvironmentName = "dev",
    image: Annotated[str | None, "registry/repository:tag or @sha256:…; default: the environment's tag"] = None,
    tag: Annotated[str | None, "tag of this stack's images, instead of the environment's"] = None,
    local: Annotated[bool, "use the engine's image of that name, without asking the registry"] = False,
    force: Annotated[bool, "even if nothing changes"] = False,
    allow_dirty: Annotated[bool, "allow uncommitted changes in a protected environment"] = False,
    timeout: Timeout = None,
) -> "Outcome":
    """Deploy a release; whatever happens, the version that worked keeps serving.

    New containers start beside the old ones and must be healthy and answer through the edge. Then the edge
    switches, requests under way are completed, the new ones are watched, the old ones removed. A failure undoes it all.
    """
    from conche.env.deploy import deploy
    from conche.env.rollout.prepare import Wanted
    from conche.env.rollout.release import Options

    return deploy(invocation, env, Wanted(image, tag, local), Options(force, allow_dirty, timeout))


@command(changes=True, waits=True)
def rollback(
    invocation: Invocation,
    env: EnvironmentName = "dev",
    to: Annotated[str | None, "a release, such as r7; default: the last good one before the current"] = None,
    timeout: Timeout = None,
) -> "Outcome":
    """Go back to an earlier release: its images and its environment, as a new release."""
    from conche.env.rollback import rollback
    from conche.env.rollout.release import Options

    return rollback(invocation, env, to, Options(timeout=timeout))


@command()
def history(
    invocation: Invocation,
    env: EnvironmentName = "dev",
    show: Annotated[str | None, "only this release, such as r7, with its evidence"] = None,
) -> "Outcome":
    """List the releases of an environment: how each ended, who, when, which image."""
    from conche.env.history import history

    return history(invocation, env, show=show)


@command(changes=True, waits=True)
def recover(
    invocation: Invocation,
    env: EnvironmentName = "dev",
    as_it_is: Annotated[bool, "rewrite, from what runs, what is kept and cannot be read"] = False,
) -> "Outcome":
    """Settle a release that was killed: finish it if it already serves, else undo it."""
    from conche.env.recover import recover
    from conche.env.rewriting import rewrite

    return rewrite(invocation, env) if as_it_is else recover(invocation, env)


@command(changes=True)
def freeze(
    invocation: Invocation,
    env: EnvironmentName = "dev",
    reason: Annotated[str | None, "why; shown to whoever tries to deploy"] = None,
    off: Annotated[bool, "allow deploys again"] = False,
) -> "Outcome":
    """Refuse every deploy to an environment until --off, showing the reason."""
    from conche.env.freeze import freeze

    return freeze(invocation, env, reason=reason, off=off)


@command(changes=True, waits=True)
def maintenance(
    invocation: Invocation,
    env: EnvironmentName = "prod",
    on: Annotated[bool, "show the maintenance page"] = False,
    off: Annotated[bool, "serve again"] = False,
) -> "Outcome":
    """Let the edge answer every request with a maintenance page, or serve again."""
    from conche.env.maintenance import maintenance

    return maintenance(invocation, env, on=on, off=off)


@command(changes=True, waits=True)
def scale(
    invocation: Invocation,
    service: Annotated[str, "service of the environment"],
    replicas: Annotated[int, "number of containers"],
    env: EnvironmentName = "prod",
) -> "Outcome":
    """Set the number of containers of a service, for later releases too."""
    from conche.env.scale import scale

    return scale(invocation, env, service, replicas)
