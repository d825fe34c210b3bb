"""invoke secrets.unset"""

from __future__ import annotations

from conche.command import Invocation
from conche.errors import NotFound
from conche.outcome import Action, Kind, Outcome, Plan, Step
from conche.vault.store import Edit
from conche.vault.values import BACKUP_KEYS, called, open_store

__all__ = ["unset"]


def unset(call: Invocation, name: str) -> Outcome:
    """Remove one secret."""
    store = open_store(call.stack, call.root)
    assert call.stack.secrets is not None
    names = store.document().names
    if name not in names:
        raise NotFound(
            "no-such-secret",
            f"{store.file.name} has no secret {called(name, names)}",
            next_command="invoke secrets.list",
        )
    declared = call.stack.secrets.declared.get(name)
    store.require_writable()
    if call.dry_run:
        return Outcome(plan=Plan((Step(Action.UNSET, Kind.SECRET, name, "asked for", destroys=True),)))
    if declared is not None and not call.yes:
        users = ", ".join(declared.services) or "no service"
        call.output.confirm(f"{name} is declared in stack.yaml and used by {users}.")
    if name == BACKUP_KEYS and not call.yes:
        call.output.confirm("Without it nothing proves any backup of this stack.")
    store.change(f"unset {name}", lambda _: Edit(drop=(name,)))
    return Outcome(value={"name": name}, changed=True, lines=[f"{name}: removed"])
