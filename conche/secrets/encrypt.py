"""invoke secrets.encrypt"""

from __future__ import annotations

import contextlib
import itertools
import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from conche.command import Invocation
from conche.errors import KeyUnusable, Refused
from conche.files import write_atomic
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
    values, aside = _plaintext(file), None
    if merge and store.file.exists():
        names = store.change("encrypt --merge", lambda _: Edit(put=values))
    else:
        key = keys.require(call.root)
        with (
            store.locked("secrets.encrypt"),
            _kept_aside(store, call.stack.secrets, replace=replace) as (kept, aside),
        ):
            store.create({**kept, **values}, declared_recipients(call.root, store.file), key, replace=replace)
        names = tuple(sorted(values))
    # The user will delete the source, so verify what the file in place gives back.
    _require_kept(store, values)
    undeclared = [name for name in values if name not in call.stack.secrets.declared]
    lines = [f"encrypted: {', '.join(names) or 'nothing new'}"]
    lines += [f"Next: {how_to_declare(undeclared)}"] if undeclared else []
    if aside is not None:
        lines += [
            f"The file before could not be read with this key, and is kept as {aside.name}. Without its {BACKUP_KEYS},",
            "backups made so far count as foreign.",
            "If a key for it is found: sops --decrypt, and invoke secrets.encrypt --merge",
            "Next: invoke backup.authenticate    # another key, for the backups from now on",
        ]
    if file != "-":
        lines.append(f"All {len(values)} values were read back from {store.file.name}; comments are not kept.")
        lines.append(f"Next: delete the plaintext: shred -u {shlex.quote(file)}")
    return Outcome(value={"changed": list(names), "undeclared": undeclared}, changed=bool(names), lines=lines)


@contextlib.contextmanager
def _kept_aside(store: Store, section: Secrets, *, replace: bool) -> Iterator[tuple[dict[str, Secret], Path | None]]:
    """Provide what of a file survives its replacement in this block, and where the whole of it is if it is unreadable.

    What proves the backups is in no file to import: without it they would be a stranger's.
    """
    kept: dict[str, Secret] = {}
    aside = None
    if replace and store.file.exists():
        try:
            if BACKUP_KEYS in store.document().names and not demonstrates(store, section):
                kept = {BACKUP_KEYS: store.read()[BACKUP_KEYS]}
        except KeyUnusable:  # its key is lost, or it is damaged: that may be why it is replaced
            aside = _copied_aside(store.file)
    try:
        yield kept, aside
    except BaseException:
        if aside is not None:
            aside.unlink(missing_ok=True)
        raise


def _copied_aside(file: Path) -> Path:
    places = (file.with_name(f"{file.name}.unread{number or ''}") for number in itertools.count())
    place = next(one for one in places if not os.path.lexists(one))
    write_atomic(place, file.read_bytes(), mode=0o600)
    return place


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
