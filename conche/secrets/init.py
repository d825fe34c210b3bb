"""invoke secrets.init"""

from __future__ import annotations

from pathlib import Path

from conche.command import Invocation
from conche.errors import Refused
from conche.files import write_atomic
from conche.outcome import Action, Kind, Outcome, Plan, Step
from conche.secret import Secret
from conche.stack import Secrets
from conche.vault import keys
from conche.vault.encrypted import is_declared
from conche.vault.keys import DEFAULT_FILE, Key
from conche.vault.recipients import new_key, write_recipients
from conche.vault.store import Store
from conche.vault.values import BACKUP_KEYS, demonstrates, make, open_store

__all__ = ["init"]

IGNORED = (".sops/*", ".sops-tmp-*", ".secrets.enc.yaml.*", ".env*", "..env.*", "!.env.example", "docker/secrets/*")
"""Lines that .gitignore needs."""

PLACEHOLDER = Secret("your_key_here")


def init(call: Invocation, *, generate: bool) -> Outcome:
    """Create a key, recipients and values; this replaces the demonstration key, but never anybody's own.

    Of a file that is there only the recipients are written to .sops.yaml, if it has no rule for the file.
    """
    store = open_store(call.stack, call.root)
    assert call.stack.secrets is not None
    section = call.stack.secrets
    if store.file.exists() and not demonstrates(store, section):
        return _taken_up(call, store)
    if call.dry_run:
        return _created(call, store, section, generate=generate)
    with store.locked("secrets.init"):
        if store.file.exists() and not demonstrates(store, section):  # made while another command had the lock
            return _taken_up(call, store)
        return _created(call, store, section, generate=generate)


def _created(call: Invocation, store: Store, section: Secrets, *, generate: bool) -> Outcome:
    key_file = call.root / DEFAULT_FILE
    existing = _own(keys.find(call.root, {}) if key_file.exists() else None, section)
    plan = Plan(
        (
            *([] if existing else [Step(Action.CREATE, Kind.FILE, str(DEFAULT_FILE), "no age key of your own")]),
            Step(Action.CREATE, Kind.FILE, ".sops.yaml", "your own recipients"),
            Step(Action.CREATE, Kind.FILE, store.file.name, "encrypted to your key"),
        )
    )
    if call.dry_run:
        return Outcome(plan=plan)
    # Before there is a key that git could add.
    _ignore(call.root)
    key = existing or new_key(key_file)
    values = {n: make(d.generate) if generate and d.generate else PLACEHOLDER for n, d in section.declared.items()}
    if call.stack.backup is not None:
        values[BACKUP_KEYS] = make("hex32")
    write_recipients(call.root, store.file, key.public)
    store.create(values, key.public, key, replace=True)
    todo = [name for name, value in section.declared.items() if value.required and values[name] == PLACEHOLDER]
    return Outcome(
        value={"recipients": list(key.public), "key_file": str(key_file), "placeholders": todo},
        changed=True,
        plan=plan,
        lines=[
            f"Your public key: {', '.join(key.public)}",
            f"Back up {DEFAULT_FILE} outside this machine now: invoke secrets.backup-key PATH",
            "A second, offline recipient saves you if this key is lost: invoke secrets.recipients.add age1…",
            *(f"Next: invoke secrets.set {name}" for name in todo),
        ],
    )


def _taken_up(call: Invocation, store: Store) -> Outcome:
    """Write the recipients of a file that is there into .sops.yaml, if nothing there says who may read it."""
    recipients, key = store.document().recipients, keys.find(call.root)
    yours = [] if key else ["You have no key."]
    if is_declared(call.root, store.file):
        lines = [f"Nothing to do: {store.file.name} has its own recipients" + ("." if key else "; you have no key.")]
        return Outcome(value={"recipients": list(recipients)}, lines=lines)
    plan = Plan((Step(Action.WRITE, Kind.FILE, ".sops.yaml", f"the recipients of {store.file.name}"),))
    if not call.dry_run:
        write_recipients(call.root, store.file, recipients)
    return Outcome(
        value={"recipients": list(recipients)},
        changed=not call.dry_run,
        plan=plan,
        lines=[f"Who can read {store.file.name}, and will after every change: {', '.join(recipients)}", *yours],
    )


def _own(found: Key | None, section: Secrets) -> Key | None:
    """Return the key in place, unless it is the demonstration key, which may be overwritten."""
    everybodys = set(section.demonstration)
    if found is None or not everybodys & set(found.public):
        return found
    if everybodys >= set(found.public):
        return None
    raise Refused(
        "demonstration-key-in-place",
        f"{DEFAULT_FILE} has the public demonstration key among others.",
        next_command=f"remove it from {DEFAULT_FILE}\ninvoke secrets.init",
    )


def _ignore(root: Path) -> None:
    file = root / ".gitignore"
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    missing = [line for line in IGNORED if line not in text.splitlines()]
    if missing:
        write_atomic(file, (text.rstrip("\n") + "\n" * bool(text) + "\n".join(missing) + "\n").encode())
