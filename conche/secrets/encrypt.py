"""invoke secrets.encrypt"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from conche.command import Invocation
from conche.errors import KeyUnusable, Refused
from conche.outcome import Outcome
from conche.secret import Secret
from conche.secrets import plaintext
from conche.stack import Secrets
from conche.vault import keys
from conche.vault.encrypted import declared_recipients
from conche.vault.store import Edit, Store
from conche.vault.values import BACKUP_KEYS, demonstrates, how_to_declare, open_store

__all__ = ["encrypt"]


def encrypt(call: Invocation, file: str, *, merge: bool, replace: bool) -> Outcome:
    """Import a YAML, JSON or dotenv file; every value stays the text that is written there."""
    store = open_store(call.stack, call.root)
    assert call.stack.secrets is not None
    values = _plaintext(file)
    if merge and store.file.exists():
        names = store.change("encrypt --merge", lambda _: Edit(put=values))
    else:
        recipients = declared_recipients(call.root, store.file)
        kept = _backup_keys(store, call.stack.secrets) if replace and store.file.exists() else {}
        store.create({**kept, **values}, recipients, keys.require(call.root), replace=replace)
        names = tuple(sorted(values))
    # The user will delete the source, so verify what the file in place gives back.
    _require_kept(store, values)
    undeclared = [name for name in values if name not in call.stack.secrets.declared]
    lines = [f"encrypted: {', '.join(names) or 'nothing new'}"]
    lines += [f"Next: {how_to_declare(undeclared)}"] if undeclared else []
    if file != "-":
        lines.append(f"All {len(values)} values were read back from {store.file.name}; comments are not kept.")
        lines.append(f"Next: delete the plaintext: shred -u {shlex.quote(file)}")
    return Outcome(value={"changed": list(names), "undeclared": undeclared}, changed=bool(names), lines=lines)


def _backup_keys(store: Store, section: Secrets) -> dict[str, Secret]:
    """Return what proves the backups, which no file to import has: without it they would be a stranger's."""
    try:
        if BACKUP_KEYS not in store.document().names or demonstrates(store, section):
            return {}
    except KeyUnusable:  # it is damaged, which may be why it is replaced
        return {}
    return {BACKUP_KEYS: store.read()[BACKUP_KEYS]}


def _require_kept(store: Store, values: Mapping[str, Secret]) -> None:
    kept = store.read()
    if lost := [name for name, value in values.items() if kept.get(name) != value]:
        raise KeyUnusable(
            "plaintext-not-kept",
            f"{store.file.name} does not decrypt to what was encrypted: {', '.join(lost)}. Keep the plaintext.",
            looked_at=[str(store.file)],
            next_command="invoke secrets.diff\ninvoke secrets.check",
        )


def _plaintext(file: str) -> dict[str, Secret]:
    try:
        content = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise Refused("file-unreadable", f"{file} cannot be read: {error.strerror}.", looked_at=[file]) from error
    return plaintext.read(content, file)
