"""invoke secrets.recipients.remove"""

from __future__ import annotations

from conche.command import Invocation
from conche.errors import NotFound, Refused
from conche.outcome import Action, Kind, Outcome, Plan, Step
from conche.vault import encrypted
from conche.vault.recipients import write_recipients
from conche.vault.values import open_store

__all__ = ["remove"]


def remove(call: Invocation, recipient: str, *, force: bool) -> Outcome:
    """Take a key's access away, with a new data key; old commits it can still read."""
    store = open_store(call.stack, call.root)
    before = store.document().recipients
    if recipient not in before and recipient not in encrypted.declared_recipients(call.root, store.file):
        raise NotFound("no-such-recipient", "That is not one of the recipients.", looked_at=list(before))
    key = store.key()
    if before == (recipient,) or (set(key.public) & set(before) == {recipient} and not force):
        raise Refused(
            "recipient-needed",
            f"Without {recipient} "
            + ("nobody could read the file." if before == (recipient,) else "you could not read it."),
            next_command="" if before == (recipient,) else f"invoke secrets.recipients.remove {recipient} --force",
        )
    if call.dry_run:
        return Outcome(plan=Plan((Step(Action.REMOVE, Kind.RECIPIENT, recipient, "asked for", destroys=True),)))
    kept = tuple(one for one in before if one != recipient)
    store.rotate("recipients.remove", remove=recipient, unread=recipient in key.public)
    write_recipients(call.root, store.file, kept)
    names = ", ".join(store.document().names)
    return Outcome(
        value={"recipients": list(kept)},
        changed=True,
        lines=[
            f"{recipient} cannot read what is committed from now on.",
            "It can still read old commits; rotate what it knew: " + names,
            "Next: invoke secrets.rotate-value NAME",
        ],
    )
