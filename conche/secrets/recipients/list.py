"""invoke secrets.recipients.list"""

from __future__ import annotations

from conche.command import Invocation
from conche.outcome import Outcome, Table
from conche.vault import encrypted, keys
from conche.vault.values import open_store

__all__ = ["list_"]


def list_(call: Invocation) -> Outcome:
    """The recipients of the file and of .sops.yaml, and which of them is your key. Exit code 1 when the two differ."""
    store = open_store(call.stack, call.root)
    found = store.document().recipients
    declared = encrypted.declared_recipients(call.root, store.file)
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
