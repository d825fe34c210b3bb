"""backup.recovery-key: makes the key that is kept apart and opens the age keys inside backups."""

from __future__ import annotations

from pathlib import Path

from conche.command import Invocation
from conche.errors import Refused
from conche.files import write_atomic
from conche.outcome import Action, Kind, Outcome, Plan, Step
from conche.vault import keys

__all__ = ["recovery_key"]


def recovery_key(call: Invocation, path: str) -> Outcome:
    """Write a new age identity to a file (0600), and say what to put into stack.yaml."""
    target = Path(path).expanduser()
    if target.exists():
        raise Refused("file-exists", f"{target} already exists; nothing was written.")
    if not target.parent.is_dir():
        raise Refused(
            "folder-missing", f"There is no folder {target.parent}.", next_command=f"mkdir -p {target.parent}"
        )
    if call.dry_run:
        return Outcome(plan=Plan((Step(Action.WRITE, Kind.FILE, str(target), "asked for"),)))
    identity, recipient = keys.generate()
    content = f"# conche recovery key; its recipient: {recipient}\n{identity.reveal()}\n"
    write_atomic(target, content.encode(), mode=0o600)
    return Outcome(
        value={"file": str(target), "recipient": recipient},
        changed=True,
        lines=[
            "Put its recipient into stack.yaml:",
            f"  backup: {{recipients: [{recipient}]}}",
            f"Then move {target} off this machine: with it and a backup, everything can be restored.",
        ],
    )
