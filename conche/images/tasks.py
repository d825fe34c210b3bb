"""invoke images.*"""

from typing import TYPE_CHECKING, Annotated

from conche.command import EnvironmentName, Invocation, command

if TYPE_CHECKING:
    from conche.outcome import Outcome

ImageName = Annotated[str | None, "image of stack.yaml; default: all"]


@command(changes=True)
def base(
    invocation: Invocation,
    renew: Annotated[bool, "also replace existing ones, for their security updates"] = False,
) -> "Outcome":
    """Provide the base images.

    They are pulled, or made from Debian's packages if no registry answers.
    """
    from conche.engine.connection import Engine
    from conche.images.base import base

    return base(invocation.stack, Engine(), invocation.output.say, dry_run=invocation.dry_run, renew=renew)


@command(changes=True)
def build(
    invocation: Invocation,
    env: EnvironmentName = "dev",
    image: ImageName = None,
    no_cache: Annotated[bool, "do not use the build cache"] = False,
) -> "Outcome":
    """Build this repository's images for an environment.

    Each gets the environment's tag and the git revision's; uncommitted changes are reported and tagged `-dirty`.
    """
    from conche.images.build import build

    return build(invocation, env, image, fresh=no_cache)


@command(changes=True)
def push(invocation: Invocation, env: EnvironmentName = "dev", image: ImageName = None) -> "Outcome":
    """Push an environment's images to the registry.

    The revision's tag goes first, then the environment's. After an interruption, run it again: it continues.
    """
    from conche.images.push import push

    return push(invocation, env, image)


@command(changes=True)
def pull(invocation: Invocation, env: EnvironmentName = "dev", image: ImageName = None) -> "Outcome":
    """Pull an environment's images from the registry."""
    from conche.images.pull import pull

    return pull(invocation, env, image)


@command(changes=True)
def release(
    invocation: Invocation,
    env: EnvironmentName = "dev",
    image: Annotated[str | None, "image of stack.yaml; default: the only one"] = None,
    allow_dirty: Annotated[bool, "allow uncommitted changes for a protected environment"] = False,
) -> "Outcome":
    """Build and push one image, and print its reference by digest.

    For workflows: stdout is that reference and nothing else.
    """
    from conche.images.release import release

    return release(invocation, env, image, allow_dirty=allow_dirty)


@command(changes=True)
def login(
    invocation: Invocation,
    persist: Annotated[bool, "have the Docker CLI remember the login"] = False,
) -> "Outcome":
    """Check that the private registry accepts our login.

    The password goes over stdin, and nothing is stored; other tasks do not need this first.
    """
    from conche.images.login import login

    return login(invocation, persist=persist)


@command(name="list")
def list_(invocation: Invocation) -> "Outcome":
    """List this stack's images: in the registry, on the engines, and which environment runs them."""
    from conche.images.list import list_

    return list_(invocation)


@command()
def inspect(
    invocation: Invocation,
    env: EnvironmentName = "dev",
    image: Annotated[str | None, "image of stack.yaml; default: the first"] = None,
    reference: Annotated[str | None, "any other image, as registry/repository:tag"] = None,
) -> "Outcome":
    """Show an image's labels and how reproducible its build is."""
    from conche.images.inspect import inspect

    return inspect(invocation, env, image, reference)


@command(changes=True)
def promote(
    invocation: Invocation,
    from_: Annotated[str, "environment in which the image runs"] = "dev",
    to: Annotated[str, "environment whose tag it gets"] = "prod",
    image: ImageName = None,
    allow_dirty: Annotated[bool, "allow images built with uncommitted changes"] = False,
) -> "Outcome":
    """Give the image that runs in one environment the tag of another.

    Only a manifest is pushed to the registry: nothing is rebuilt, and no layer passes through this machine.
    """
    from conche.images.promote import promote

    return promote(invocation, from_, to, image=image, allow_dirty=allow_dirty)


@command(changes=True)
def tag(
    invocation: Invocation,
    source: Annotated[str, "tag or digest in the registry"],
    new: Annotated[str, "the additional tag"],
    image: Annotated[str | None, "image of stack.yaml; default: the first"] = None,
) -> "Outcome":
    """Give an image in the registry another tag."""
    from conche.images.tag import tag

    return tag(invocation, source, new, image=image)


@command(changes=True, destroys=True, waits=True)
def prune(
    invocation: Invocation,
    keep: Annotated[int, "how many of the newest to keep in each place"] = 10,
    collect: Annotated[bool, "then free the registry's disk; it is down during that"] = False,
) -> "Outcome":
    """Delete images that nothing needs, in the registry and on the engines.

    What environments run or their tags name, what a rollback may need, and tags given by hand stay; the plan says why.
    """
    from conche.images.prune import prune

    return prune(invocation, keep=keep, collecting=collect)


@command(changes=True)
def mirror(invocation: Invocation) -> "Outcome":
    """Copy the upstream images that the stack needs into the private registry.

    Copies are used from then on, so that a restart does not depend on others' rate limits.
    """
    from conche.images.mirror import mirror

    return mirror(invocation)


@command(changes=True)
def save(
    invocation: Invocation,
    to: Annotated[str, "file to write"],
    env: EnvironmentName = "dev",
    image: ImageName = None,
    force: Annotated[bool, "replace an existing file"] = False,
) -> "Outcome":
    """Write an environment's images to a file, for a host without a registry."""
    from conche.images.save import save

    return save(invocation, env, image, to, force=force)


@command(changes=True)
def load(
    invocation: Invocation,
    file: Annotated[str, "file written by images.save"],
    env: Annotated[str | None, "environment whose engine loads them; default: the engine in use"] = None,
) -> "Outcome":
    """Load images from a file, refusing a damaged one."""
    from conche.images.load import load

    return load(invocation, file, env)


@command()
def check(invocation: Invocation, env: EnvironmentName = "dev", image: ImageName = None) -> "Outcome":
    """Check labels, user, secrets in layers, size and the age of the base; exit code 1 on a finding."""
    from conche.images.check import check

    return check(invocation, env, image)
