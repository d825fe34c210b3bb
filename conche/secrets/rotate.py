"""invoke secrets.rotate"""

from __future__ import annotations

from pathlib import Path

from conche.command import Invocation
from conche.errors import Refused
from conche.outcome import Action, Kind, Outcome, Plan, Step
from conche.secret import Secret
from conche.vault import keys
from conche.vault.encrypted import declared_recipients
from conche.vault.keys import DEFAULT_FILE, Key
from conche.vault.recipients import write_key, write_recipients
from conche.vault.store import Store
from conche.vault.values import open_store

__all__ = ["rotate"]


def rotate(call: Invocation, *, identity: bool, finish: bool) -> Outcome:
    """Rotate the data key; with `identity` also add a new age key, with `finish` then remove the old one."""
    store = open_store(call.stack, call.root)
    # If a kill has left one of our identities in only one of the two lists, it is put right below.
    store.require_writable(moving=store.key().public if identity else ())
    if call.dry_run:
        return Outcome(plan=Plan((Step(Action.ROTATE, Kind.FILE, store.file.name, "asked for"),)))
    if identity:
        return _new_identity(call, store, finish=finish)
    store.rotate("rotate")
    return Outcome(
        value={"recipients": list(store.document().recipients)},
        changed=True,
        lines=["The data key is new. The values are not: change those at their providers with secrets.rotate-value."],
    )


def _new_identity(call: Invocation, store: Store, *, finish: bool) -> Outcome:
    """Add, prove, and only then remove, so that a kept key can read the file at every moment."""
    key_file = call.root / DEFAULT_FILE
    held = store.key()
    if held.source != str(key_file):
        raise Refused(
            "key-elsewhere",
            f"The key in use is from {held.source}; --identity changes only {DEFAULT_FILE}.",
            next_command=f"put the key into {DEFAULT_FILE} first",
        )
    if not (finish and len(held.public) > 1 and held.public[-1] in _everywhere(call, store)):
        held = _with_another(call, store, key_file, held)
    *old, public = held.public
    lines = [f"The new public key: {public}", "Next: SOPS_AGE_KEY in CI, and invoke secrets.backup-key PATH"]
    if not finish:
        lines.append(
            "The old key still works. Once the new one is everywhere: invoke secrets.rotate --identity --finish"
        )
        return Outcome(value={"added": public, "removed": []}, changed=True, lines=lines)
    secret = held.identities.reveal().splitlines()[-1]
    new = Key(held.source, Secret(secret), (public,))
    somewhere = {*store.document().recipients, *declared_recipients(call.root, store.file)}
    for gone in [one for one in old if one in somewhere]:
        store.rotate("rotate --identity: remove", remove=gone, prove=new)
        write_recipients(call.root, store.file, store.document().recipients)
    write_key(key_file, [secret])
    return Outcome(value={"added": public, "removed": old}, changed=True, lines=lines)


def _everywhere(call: Invocation, store: Store) -> set[str]:
    """Return the recipients that both the file and .sops.yaml have."""
    return {*store.document().recipients} & {*declared_recipients(call.root, store.file)}


def _with_another(call: Invocation, store: Store, key_file: Path, old: Key) -> Key:
    """Append a new identity to the key file, make it a recipient, and prove that it decrypts.

    If a killed command has added an identity that is a recipient in the encrypted file only, continue with that one.
    """
    *_, last = old.identities.reveal().splitlines()
    found = store.document().recipients
    begun = len(old.public) > 1 and old.public[-1] in found and old.public[-1] not in _everywhere(call, store)
    secret, public = (Secret(last), old.public[-1]) if begun else keys.generate()
    both = [*old.identities.reveal().splitlines(), *([] if begun else [secret.reveal()])]
    # Both keys are on disk before the first recipient changes, so a kill at any step leaves a usable one.
    write_key(key_file, both)
    store.rotate("rotate --identity: add", add=public, prove=Key(old.source, secret, (public,)))
    write_recipients(call.root, store.file, store.document().recipients)
    return Key(old.source, Secret("\n".join(both)), tuple(dict.fromkeys((*old.public, public))))
