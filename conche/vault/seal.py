"""Seals what is kept outside the checkout, such as a release's environment, with age to the secrets' recipients.

Without a key, which only unprotected environments allow, this user's own key in the state folder is used.
"""

from __future__ import annotations

import hmac
from pathlib import Path

from conche.errors import KeyUnusable
from conche.files import state_folder, write_atomic
from conche.secret import Secret
from conche.stack import Stack
from conche.vault import keys
from conche.vault.values import open_store

__all__ = ["fingerprint", "seal", "unseal"]


def seal(stack: Stack, root: Path, content: bytes) -> bytes:
    """Encrypt to everybody who can read the secrets, or without a key to this user's own key."""
    import pyrage

    if stack.secrets is not None and keys.find(root) is not None:
        recipients = open_store(stack, root).document().recipients
    else:
        recipients = (str(pyrage.x25519.Identity.from_str(_own(stack).reveal()).to_public()),)
    sealed: bytes = pyrage.encrypt(content, [pyrage.x25519.Recipient.from_str(one) for one in recipients])
    return sealed


def unseal(stack: Stack, root: Path, sealed: bytes) -> bytes:
    """Decrypt what `seal` has encrypted.

    Raises:
        KeyUnusable: neither the key nor this user's own key opens it.
    """
    import pyrage

    key = keys.find(root)
    lines = key.identities.reveal().splitlines() if key else []
    if _own_file(stack).is_file():
        lines.append(_own(stack).reveal())
    identities = [pyrage.x25519.Identity.from_str(line) for line in lines if line.startswith(keys.PREFIX)]
    try:
        opened: bytes = pyrage.decrypt(sealed, identities)
    except pyrage.DecryptError as error:
        raise KeyUnusable(
            "seal-not-opened",
            "What a release has kept cannot be decrypted with the keys here.",
            looked_at=[key.source if key else "no age key", str(_own_file(stack))],
            evidence=[str(error)],
            next_command="invoke secrets.recipients.list    # who could",
        ) from error
    return opened


def fingerprint(salt: bytes, value: Secret) -> str:
    """Return twelve hexadecimal digits that distinguish values without allowing them to be guessed.

    Args:
        salt: the environment's salt, sealed and kept with its releases: whoever may deploy computes the same digits.
    """
    return hmac.new(salt, value.reveal().encode(), "sha256").hexdigest()[:12]


def _own_file(stack: Stack) -> Path:
    return state_folder() / stack.name / "releases.age-key"


def _own(stack: Stack) -> Secret:
    import pyrage

    file = _own_file(stack)
    if not file.is_file():
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(file, f"{pyrage.x25519.Identity.generate()}\n".encode(), mode=0o600)
    return Secret(file.read_text().strip())
