"""invoke images.*"""

from typing import Annotated

from conche.command import EnvironmentName, Invocation, command
from conche.outcome import Outcome

ImageName = Annotated[str | None, "image of stack.yaml; default: all"]


@command(changes=True)
def base(invocation: Invocation) -> Outcome:
    """Provide the base images.

    They are pulled, or made from Debian's packages where no registry answers.
    """
    from conche.engine.connection import Engine
    from conche.images.base import base

    return base(invocation.stack, Engine(), invocation.output.say, dry_run=invocation.dry_run)


@command(changes=True)
def build(
    invocation: Invocation,
    env: EnvironmentName = "dev",
    image: ImageName = None,
    no_cache: Annotated[bool, "take nothing from the build cache"] = False,
) -> Outcome:
    """Build this repository's images for an environment.

    Each gets the environment's tag and the git revision's; a tree that is no commit is said, and tagged `-dirty`.
    """
    from conche.images.deliver import build_all

    return build_all(invocation, env, image, fresh=no_cache)


@command(changes=True)
def push(invocation: Invocation, env: EnvironmentName = "dev", image: ImageName = None) -> Outcome:
    """Push an environment's images to the registry.

    The revision's tag first, then the environment's. What is cut on the way goes on where it was when run again.
    """
    from conche.images.deliver import push_all

    return push_all(invocation, env, image)


@command(changes=True)
def pull(invocation: Invocation, env: EnvironmentName = "dev", image: ImageName = None) -> Outcome:
    """Pull an environment's images from the registry."""
    from conche.images.deliver import pull_all

    return pull_all(invocation, env, image)


@command(changes=True)
def release(
    invocation: Invocation,
    env: EnvironmentName = "dev",
    image: Annotated[str | None, "image of stack.yaml; default: the only one"] = None,
    allow_dirty: Annotated[bool, "for a protected environment, also from a tree that is no commit"] = False,
) -> Outcome:
    """Build and push one image, and print its reference by digest.

    The step that a workflow calls: stdout is that reference and nothing else.
    """
    from conche.images.deliver import release

    return release(invocation, env, image, allow_dirty=allow_dirty)


@command(changes=True)
def login(
    invocation: Invocation,
    persist: Annotated[bool, "let the Docker CLI remember it"] = False,
) -> Outcome:
    """See that the private registry lets us in.

    The password goes over stdin, and nothing is stored; the other tasks need no login.
    """
    from conche.images.login import login

    return login(invocation, persist=persist)
