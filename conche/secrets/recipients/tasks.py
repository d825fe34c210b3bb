"""invoke secrets.recipients.*"""

from typing import Annotated

from conche.command import Invocation, command
from conche.outcome import Outcome

Recipient = Annotated[str, "age1…, the public key"]


@command(name="list")
def list_(invocation: Invocation) -> Outcome:
    """Who can read the encrypted file."""
    from conche.secrets.recipients.list import list_

    return list_(invocation)


@command(changes=True)
def add(invocation: Invocation, recipient: Recipient) -> Outcome:
    """Let one more key read the file."""
    from conche.secrets.recipients.add import add

    return add(invocation, recipient)


@command(changes=True)
def remove(
    invocation: Invocation,
    recipient: Recipient,
    force: Annotated[bool, "even if it is your own"] = False,
) -> Outcome:
    """Take a key's access away."""
    from conche.secrets.recipients.remove import remove

    return remove(invocation, recipient, force=force)
