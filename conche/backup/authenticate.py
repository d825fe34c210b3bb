"""backup.authenticate: makes the key that proves backups, or another one in front of the earlier ones."""

from __future__ import annotations

from collections.abc import Mapping

from conche.backup import mac
from conche.backup.site import Site, open_site
from conche.command import Invocation
from conche.errors import KeyUnusable
from conche.outcome import Action, Kind, Outcome, Plan, Step
from conche.secret import Secret
from conche.vault.store import Edit, Store
from conche.vault.values import BACKUP_KEYS, demonstrates, make, open_store, stores

__all__ = ["authenticate"]


def authenticate(call: Invocation, *, rotate: bool) -> Outcome:
    """Make a key if there is none yet, or with `rotate` in any case.

    It is not made by the first backup: a checkout may be a runner's, which is thrown away with what it has changed.

    Raises:
        KeyUnusable: the secrets cannot be read, or hold something else under that name.
    """
    site = open_site(call)
    store = _store(call, site)
    names = store.document().names
    assert site.stack.secrets is not None
    if demonstrates(store, site.stack.secrets):
        raise KeyUnusable(
            "demonstration-key",
            f"{store.file.name} is encrypted to the public demonstration key: a key in it would be anybody's.",
            next_command="invoke secrets.init",
        )
    if BACKUP_KEYS in names and not rotate:
        store.require_writable()
        return Outcome(value={"made": False}, lines=["Nothing to do: this stack has a key for its backups."])
    store.require_writable()
    why = "asked for; the earlier ones are kept" if BACKUP_KEYS in names else "nothing proves a backup yet"
    plan = Plan((Step(Action.ROTATE if BACKUP_KEYS in names else Action.CREATE, Kind.KEY, BACKUP_KEYS, why),))
    if call.dry_run:
        return Outcome(plan=plan)
    new = make("hex32")
    store.change("backup.authenticate", lambda values: Edit(put={BACKUP_KEYS: _with(new, values, rotate=rotate)}))
    return Outcome(
        value={"made": True},
        changed=True,
        plan=plan,
        lines=[
            f"{BACKUP_KEYS} is in {store.file.name}. Next: commit it, since what it proves cannot be proven without it",
            f"git commit -m 'Prove backups' -- {store.file.relative_to(call.root)}",
            "invoke backup.adopt --all    # if every backup that is there is known to you",
        ],
    )


def _store(call: Invocation, site: Site) -> Store:
    """Return the encrypted file that has the keys, or the one that others would be put into."""
    there = [one for one in stores(site.stack, call.root) if one.file.exists()]
    return next((one for one in there if BACKUP_KEYS in one.document().names), open_store(site.stack, call.root))


def _with(new: Secret, values: Mapping[str, Secret], *, rotate: bool) -> Secret:
    """Return the keys with a new one in front; unchanged if another command has made the first one meanwhile."""
    if BACKUP_KEYS not in values:
        return mac.written((new,))
    try:
        earlier = mac.parsed(values[BACKUP_KEYS])
    except ValueError as error:
        raise KeyUnusable(
            "backup-keys-malformed",
            f"The value of {BACKUP_KEYS} cannot be used: {error}. Nothing was changed.",
            next_command="invoke secrets.diff    # when was it changed?",
        ) from None
    return mac.written((new, *earlier) if rotate else earlier)
