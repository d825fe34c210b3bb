"""invoke secrets.recipients.add"""

from __future__ import annotations

from conche.command import Invocation
from conche.errors import Refused
from conche.outcome import Action, Kind, Outcome, Plan, Step
from conche.vault import encrypted, keys
from conche.vault.recipients import write_recipients
from conche.vault.values import open_store

__all__ = ["add"]


def add(call: Invocation, recipient: str) -> Outcome:
    """Let one more key read the file."""
    _parsed(recipient)
    store = open_store(call.stack, call.root)
    before = store.document().recipients
    declared = encrypted.declared_recipients(call.root, store.file)
    if recipient in before and recipient in declared:
        return Outcome(
            value={"recipients": list(before)}, lines=[f"Nothing to do: {recipient} already is a recipient."]
        )
    if call.dry_run:
        return Outcome(plan=Plan((Step(Action.ADD, Kind.RECIPIENT, recipient, "asked for"),)))
    store.rotate("recipients.add", add=recipient)
    after = store.document().recipients
    write_recipients(call.root, store.file, after)
    return Outcome(
        value={"recipients": list(after)},
        changed=True,
        lines=[
            f"{recipient} can read {store.file.name} from this commit on.",
            f"Next: git add .sops.yaml {store.file.relative_to(call.root)}",
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
            "That is a private key, which nobody else may see." if private else "That is not an age recipient.",
            looked_at=["a recipient begins with age1 and is what age-keygen calls the public key"],
            next_command="ask its holder to run: age-keygen -y .sops/age-key.txt",
        ) from None
