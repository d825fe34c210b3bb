"""The keys that prove a stack's backups, as they are kept: one value in the encrypted secrets.

So everybody who can read the secrets can check a backup, and so can whoever holds the recovery key, since it opens the
age key in a backup, and that opens the secrets of the checkout. Who can only write to the target has neither.
"""

from __future__ import annotations

import contextlib

from conche.backup.mac import Keys, parsed
from conche.errors import ConcheError
from conche.secret import Secret
from conche.vault.values import BACKUP_KEYS, stores
from conche.vault.vault import Vault

__all__ = ["known_keys", "readable_secrets"]


def readable_secrets(vault: Vault) -> tuple[Secret, ...]:
    """Return every value of a stack's encrypted files that can be read."""
    found: list[Secret] = []
    for store in stores(vault.stack, vault.root):
        with contextlib.suppress(OSError, ConcheError):
            found += vault.read(store).values()
    vault.redact.learn(found)
    return tuple(found)


def known_keys(vault: Vault) -> Keys:
    """Return a stack's keys for its backups, of all encrypted files that can be read.

    A file without the name, which is in clear in it, has none, even if it is damaged: a stack that never had a key can
    restore its secrets then as ever.
    """
    found: list[Secret] = []
    unknown = ""
    for store in stores(vault.stack, vault.root):
        try:
            if BACKUP_KEYS.encode() in store.file.read_bytes().lower():  # in capital letters in a dotenv
                found += parsed(vault.read(store)[BACKUP_KEYS])
        except FileNotFoundError:
            continue
        except KeyError:  # in a comment, or a part of another name
            continue
        except OSError as error:
            unknown = f"{store.file.name} cannot be read: {error.strerror}."
        except ConcheError as error:
            unknown = error.message
        except ValueError as error:
            unknown = f"{BACKUP_KEYS} in {store.file.name} is malformed: {error}."
    every = tuple(one for place, one in enumerate(found) if one not in found[:place])
    vault.redact.learn(every)
    return Keys(every, "" if every else unknown)
