"""invoke secrets.backup-key"""

from __future__ import annotations

from pathlib import Path

from pyrage import passphrase

from conche.command import Invocation
from conche.errors import Refused
from conche.files import write_atomic
from conche.outcome import Action, Kind, Outcome, Plan, Step
from conche.vault import keys
from conche.vault.ask import ask

__all__ = ["backup_key"]


def backup_key(call: Invocation, path: str) -> Outcome:
    """Write a copy of the key, encrypted with a passphrase that is asked for or read from a pipe."""
    key = keys.require(call.root)
    target = Path(path).expanduser()
    if target.exists():
        raise Refused("file-exists", f"{target} already exists; nothing was written.")
    if call.dry_run:
        return Outcome(plan=Plan((Step(Action.WRITE, Kind.FILE, str(target), "asked for"),)))
    secret = ask("passphrase")
    if len(secret) < 12:
        raise Refused("passphrase-short", "A passphrase of fewer than 12 characters protects little.")
    write_atomic(target, passphrase.encrypt(key.identities.reveal().encode(), secret.reveal()), mode=0o600)
    return Outcome(
        value={"file": str(target), "public": list(key.public)},
        changed=True,
        lines=[
            f"To restore it: age --decrypt --output .sops/age-key.txt '{target}'",
            "Keep it apart from the backups.",
        ],
    )
