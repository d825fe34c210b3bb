"""Encrypts the age key inside a backup, to recovery recipients or with a passphrase.

A backup with both the encrypted secrets and the plain key protects nothing; one with the key encrypted to itself cannot
be opened by anybody. The file is armored age: `age --decrypt` reads it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from conche.errors import KeyUnusable, Refused
from conche.secret import Secret

if TYPE_CHECKING:
    from conche.backup.site import Site
    from conche.vault.keys import Key

__all__ = ["PASSPHRASE", "check_recipients", "is_sealed", "open_sealed", "seal"]

PASSPHRASE = "CONCHE_BACKUP_PASSPHRASE"  # noqa: S105 - the name of a variable
"""Variable with the passphrase, for a person or a cron job that prefers one to a recovery key."""

SHORTEST = 12
HEAD = b"-----BEGIN AGE ENCRYPTED FILE-----"


def check_recipients(site: Site, key: Key | None, *, plain_key: bool) -> None:
    """Refuse a backup whose age key nobody could open later, before anything is read.

    Raises:
        Refused: there is a key, but nothing to encrypt it to except itself.
    """
    if plain_key or not _has_secrets(site):
        return
    recipients = [_recipient(text) for text in site.section.recipients]
    if key is None:
        return
    own = [text for text in site.section.recipients if text.strip() in key.public]
    if own:
        raise Refused(
            "recovery-is-own-key",
            f"backup.recipients has {own[0]}, whose key is itself in the backup, so it could not open it.",
            next_command="invoke backup.recovery-key PATH    # a separate key, kept apart",
        )
    passphrase = os.environ.get(PASSPHRASE, "")
    if not recipients and len(passphrase) < SHORTEST:
        short = f"{PASSPHRASE} has less than {SHORTEST} characters" if passphrase else "there is no passphrase either"
        raise Refused(
            "no-recovery-recipient",
            f"backup.recipients in stack.yaml is empty, so the age key in the backup cannot be encrypted; {short}.",
            next_command="invoke backup.recovery-key PATH    # then put its recipient under backup.recipients",
        )


def seal(identities: Secret, recipients: Sequence[str]) -> bytes:
    """Encrypt the key as an armored age file; with a passphrase, also prove that it opens again."""
    import pyrage

    content = identities.reveal().encode() + b"\n"
    if recipients:
        sealed: bytes = pyrage.encrypt(content, [_recipient(text) for text in recipients], armored=True)
        return sealed
    passphrase = os.environ[PASSPHRASE]
    sealed = pyrage.passphrase.encrypt(content, passphrase, armored=True)
    if _by_passphrase(sealed, passphrase) != content:
        raise KeyUnusable("seal-unproven", "The encrypted age key cannot be decrypted again.")
    return sealed


def is_sealed(key: bytes) -> bool:
    """Return whether the age key in a backup is encrypted."""
    return key.startswith(HEAD)


def open_sealed(sealed: bytes, recovery: bytes | None) -> bytes:
    """Open the age key in a backup.

    Args:
        recovery: the text of a recovery key: an age identity, or an OpenSSH private key. Without one, the passphrase in
            the environment is tried.

    Raises:
        KeyUnusable: neither opens it.
    """
    import pyrage

    if not is_sealed(sealed):
        return sealed
    try:
        if recovery is not None:
            opened: bytes = pyrage.decrypt(sealed, _identities(recovery))
            return opened
        if passphrase := os.environ.get(PASSPHRASE):
            return _by_passphrase(sealed, passphrase)
    except Exception:  # noqa: BLE001 - pyrage's error is never shown: it might repeat its input
        raise KeyUnusable(
            "recovery-key-wrong",
            "The recovery key or passphrase does not open the age key of this backup.",
            next_command="use the one whose recipient was in backup.recipients when the backup was made",
        ) from None
    raise KeyUnusable(
        "recovery-key-needed",
        "The age key in this backup is encrypted; give a recovery key to open it.",
        looked_at=["--recovery-key", PASSPHRASE],
        next_command="invoke backup.restore NAME --recovery-key FILE\n"
        "age --decrypt -i FILE secrets/age-key.txt    # by hand",
    )


def _by_passphrase(sealed: bytes, passphrase: str) -> bytes:
    """Decrypt with a passphrase.

    age refuses a file that would take this machine too long, judging by a short measurement that may go wrong on a busy
    machine: a second attempt decides.
    """
    import pyrage

    try:
        opened: bytes = pyrage.passphrase.decrypt(sealed, passphrase)
    except pyrage.DecryptError:
        opened = pyrage.passphrase.decrypt(sealed, passphrase)
    return opened


def _identities(recovery: bytes) -> list[Any]:
    import pyrage

    if recovery.startswith(b"-----BEGIN"):
        return [pyrage.ssh.Identity.from_buffer(recovery)]
    lines = [line.strip() for line in recovery.decode().splitlines()]
    return [pyrage.x25519.Identity.from_str(line) for line in lines if line and not line.startswith("#")]


def _recipient(text: str) -> Any:
    import pyrage

    kind = pyrage.x25519.Recipient if text.startswith("age1") else pyrage.ssh.Recipient
    try:
        return kind.from_str(text.strip())
    except Exception:  # noqa: BLE001 - pyrage raises errors without a common class
        raise Refused(
            "not-a-recipient-line",
            f"backup.recipients has {text!r}, which is neither an age recipient nor an SSH public key.",
            next_command="invoke backup.recovery-key PATH",
        ) from None


def _has_secrets(site: Site) -> bool:
    return any(component.driver == "secrets" for component in site.section.components.values())
