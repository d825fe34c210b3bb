"""secrets.recipients.*: who can read the encrypted file; .sops.yaml and the file change together.

The file is changed first and .sops.yaml after it. A kill between the two is found by the next command, which refuses
until the same `recipients.add` or `.remove` is said again, and finishes then.
"""

from __future__ import annotations

from conche.command import Invocation
from conche.errors import NotFound, Refused
from conche.outcome import Outcome, Plan, Step, Table
from conche.secrets import document, keys
from conche.secrets.change import write_recipients
from conche.secrets.values import open_store

__all__ = ["add", "list_recipients", "remove"]


def list_recipients(call: Invocation) -> Outcome:
    """The recipients of the file and of .sops.yaml, and which of them is your key. Exit code 1 when the two differ."""
    store = open_store(call.stack, call.root)
    found = store.document().recipients
    declared = document.declared_recipients(call.root, store.file)
    key = keys.find(call.root)
    mine = key.public if key else ()
    everybody = call.stack.secrets.demonstration if call.stack.secrets else ()
    rows = [
        {
            "recipient": one,
            "file": one in found,
            "declared": one in declared,
            "yours": one in mine,
            "demonstration": one in everybody,
        }
        for one in dict.fromkeys((*found, *declared))
    ]
    said = {True: "yes", False: ""}
    table = Table(
        ("recipient", "in the file", "in .sops.yaml", "yours", "everybody's"),
        tuple((str(row["recipient"]), *(said[bool(value)] for value in list(row.values())[1:])) for row in rows),
    )
    return Outcome(value=rows, tables=[table], exit_code=0 if sorted(found) == sorted(declared) else 1)


def add(call: Invocation, recipient: str) -> Outcome:
    """Let one more key read the file."""
    _parsed(recipient)
    store = open_store(call.stack, call.root)
    before = store.document().recipients
    declared = document.declared_recipients(call.root, store.file)
    if recipient in before and recipient in declared:
        return Outcome(
            value={"recipients": list(before)}, lines=[f"Nothing to do: {recipient} is a recipient already."]
        )
    if call.dry_run:
        return Outcome(plan=Plan((Step("add", f"recipient {recipient}", "asked for"),)))
    store.rotate("recipients.add", add=recipient)
    after = store.document().recipients
    write_recipients(call.root, store.file, after)
    return Outcome(
        value={"recipients": list(after)},
        changed=True,
        lines=[
            f"{recipient} can read {store.file.name} from this commit on.",
            "Next: git add .sops.yaml secrets.enc.yaml",
        ],
    )


def remove(call: Invocation, recipient: str, *, force: bool) -> Outcome:
    """Take a key's access away, with a new data key; old commits it can still read."""
    store = open_store(call.stack, call.root)
    before = store.document().recipients
    if recipient not in before and recipient not in document.declared_recipients(call.root, store.file):
        raise NotFound("no-such-recipient", "That is none of the recipients.", looked_at=list(before))
    key = store.key()
    if before == (recipient,) or (set(key.public) & set(before) == {recipient} and not force):
        raise Refused(
            "recipient-needed",
            f"Without {recipient} "
            + ("nobody could read the file." if before == (recipient,) else "you could not read it."),
            next_command="" if before == (recipient,) else f"invoke secrets.recipients.remove {recipient} --force",
        )
    if call.dry_run:
        return Outcome(plan=Plan((Step("remove", f"recipient {recipient}", "asked for", destroys=True),)))
    kept = tuple(one for one in before if one != recipient)
    store.rotate("recipients.remove", remove=recipient, unread=recipient in key.public)
    write_recipients(call.root, store.file, kept)
    names = ", ".join(store.document().names)
    return Outcome(
        value={"recipients": list(kept)},
        changed=True,
        lines=[
            f"{recipient} cannot read what is committed from now on.",
            "It can still read old commits. What it knew, rotate: " + names,
            "Next: invoke secrets.rotate-value NAME",
        ],
    )


def _parsed(recipient: str) -> None:
    from pyrage import x25519

    try:
        x25519.Recipient.from_str(recipient)
    except Exception:  # noqa: BLE001 - pyrage has one error a kind of key
        private = recipient.strip().upper().startswith(keys.PREFIX)
        raise Refused(
            "recipient-malformed",
            "That is a private key, and nobody may see it." if private else "That is no age recipient.",
            looked_at=["a recipient begins with age1 and is what age-keygen calls the public key"],
            next_command="ask its holder to run: age-keygen -y .sops/age-key.txt",
        ) from None
