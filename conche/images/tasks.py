"""invoke images.*"""

from conche.command import Invocation, command
from conche.outcome import Outcome


@command(changes=True)
def base(invocation: Invocation) -> Outcome:
    """Provide the base images.

    They are pulled, or made from Debian's packages where no registry answers.
    """
    from conche.engine.connection import Engine
    from conche.images.base import base

    return base(invocation.stack, Engine(), invocation.output.say, dry_run=invocation.dry_run)
