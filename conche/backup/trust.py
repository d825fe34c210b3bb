"""What is asked before a backup is used that is not proven to be the stack's own, and how an empty host proves one."""

from __future__ import annotations

import os
from dataclasses import replace

from conche.backup import sealing, within
from conche.backup.drivers.keyring import KEY
from conche.backup.mac import KEYLESS, Keys, Provenance
from conche.backup.mac_keys import known_keys
from conche.backup.site import Site
from conche.backup.target import StoredBackup
from conche.errors import KeyUnusable, Refused
from conche.vault import keys as age_keys
from conche.vault.vault import Vault

__all__ = ["recovered", "require", "require_keys", "require_provenance"]

LARGEST = 64 << 10
"""Maximum bytes that are read of an age key in a backup."""


def recovered(site: Site, vault: Vault, recovery: bytes | None) -> Site:
    """Return a site that knows its keys, if the recovery key opens an age key that opens the checkout's own secrets.

    On an empty host the age key is in the backup. Anybody can encrypt one to the recovery key; but only the stack's
    opens the secrets that came with the repository, and with them the keys.
    """
    if not site.target.keys().unknown or not (recovery or os.environ.get(sealing.PASSPHRASE)):
        return site
    section = site.section.components.items()
    places = [f"{name}/{KEY}" for name, one in section if one.driver == "secrets"]
    for found in site.target.backups():
        for place in places:
            keys = _opened_by(vault, found, place, recovery)
            if keys.every:
                return replace(site, target=replace(site.target, keys=lambda k=keys: k))  # type: ignore[misc]
    return site


def _opened_by(vault: Vault, found: StoredBackup, place: str, recovery: bytes | None) -> Keys:
    try:
        opened = sealing.open_sealed(within.content(found.folder, place, LARGEST), recovery)
        key = age_keys.find(vault.root, {"SOPS_AGE_KEY": opened.decode()})
        return known_keys(vault.with_key(key)) if key else KEYLESS
    except (OSError, ValueError, KeyUnusable):
        return KEYLESS


def require(found: StoredBackup, again: str) -> None:
    """Refuse a backup of the target that is not known to be ours.

    Args:
        again: the command line that accepts it; empty if none does.

    Raises:
        Refused: it says what is not proven.
    """
    known = found.manifest
    moved = f"its manifest is that of {known.name}" if known is not None and known.name != found.name else ""
    require_provenance(found.name, found.provenance, found.keys(), str(found.folder), again=again, moved=moved)


def require_provenance(
    name: str, provenance: Provenance, keys: Keys, place: str, *, again: str = "", moved: str = ""
) -> None:
    """Refuse a backup that is not known to be ours, unless the stack has no keys; otherwise like `require`.

    Args:
        place: where it is.
        moved: what is wrong with its place, if that is all that is wrong.
    """
    if provenance is Provenance.OURS or not keys.exist:
        return
    accept = [f"{again}    # only if you know where it comes from"] if again else []
    if provenance is Provenance.FOREIGN:
        why = moved or "no key of this stack has made its MAC, or it was changed since"
        look = "invoke backup.list    # use another one, and find out who can write there"
        raise Refused(
            "backup-foreign",
            f"{name} is foreign: {why}. Nothing in it is believed.",
            looked_at=[place],
            next_command="\n".join([look, *accept]),
        )
    adopt = [] if keys.unknown else [f"invoke backup.adopt {name}    # if you know that it is this stack's"]
    why = f"the keys cannot be read here: {keys.unknown}" if keys.unknown else "it has no MAC."
    raise Refused(
        "backup-unproven",
        f"Nothing proves that {name} is a backup of this stack, made when it says, and not changed since: {why}",
        looked_at=[place],
        next_command="\n".join([*adopt, *accept]),
    )


def require_keys(site: Site) -> Keys:
    """Return the stack's keys.

    Raises:
        KeyUnusable: they cannot be read here.
        Refused: it has none.
    """
    keys = site.target.keys()
    if keys.unknown:
        raise KeyUnusable(
            "backup-keys-unread",
            f"The keys of this stack's backups cannot be read: {keys.unknown}",
            next_command="invoke secrets.check",
        )
    if not keys.every:
        raise Refused(
            "backup-keys-missing",
            "This stack has no key for its backups yet, so nothing could prove one.",
            next_command="invoke backup.authenticate",
        )
    return keys
