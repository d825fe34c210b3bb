"""invoke secrets.recipients.*"""

from typing import TYPE_CHECKING, Annotated

from conche.command import Invocation, command

if TYPE_CHECKING:
    from conche.outcome import Outcome

Recipient = Annotated[str, "age1…, the public key"]
Of = Annotated[str | None, "which encrypted file, if stack.yaml names several"]


@command(name="list")
def list_(invocation: Invocation, env: Of = None) -> "Outcome":
    """Who can read the encrypted file."""
    from conche.secrets.recipients.list import list_
    from conche.secrets.several import within

    return list_(within(invocation, env))


@command(changes=True)
def add(invocation: Invocation, recipient: Recipient, env: Of = None) -> "Outcome":
    """Let one more key read the file."""
    from conche.secrets.recipients.add import add
    from conche.secrets.several import within

    return add(within(invocation, env), recipient)


@command(changes=True)
def remove(
    invocation: Invocation,
    recipient: Recipient,
    force: Annotated[bool, "even if it is your own"] = False,
    env: Of = None,
) -> "Outcome":
    """Take a key's access away."""
    from conche.secrets.recipients.remove import remove
    from conche.secrets.several import within

    return remove(within(invocation, env), recipient, force=force)
