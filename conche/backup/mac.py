"""Tells the stack's own backups from others: by a MAC over what they say, whose key the target never sees.

Whoever can write to the target can write a manifest, and make its digest fit; without the key nobody makes its MAC fit.
The MAC is HMAC-SHA-256 (RFC 2104). It covers a whole manifest, which has the hash of every file: so nothing of a backup
can be changed, and no name, time or place of another backup can be given to it.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from conche.secret import Secret

__all__ = ["KEYLESS", "MANIFEST", "SNAPSHOT", "TAG", "UNCHANGED", "Keys", "KeysOf", "Provenance", "parsed", "written"]

TAG = re.compile(rb"[0-9a-f]{16}:[0-9a-f]{64}")
"""A MAC as it is stored: which key has made it, and what it has made."""

MANIFEST, SNAPSHOT = b"conche backup manifest", b"conche backup snapshot"
UNCHANGED = b"conche backup unchanged"
"""What a MAC is for: one that was made for the one is none for the other."""

Bytes = bytes | memoryview

_KEY = re.compile(r"[0-9a-f]{64}")


class Provenance(StrEnum):
    """Whether a backup is known to be the stack's own.

    Attributes:
        UNPROVEN: it has no MAC, or the key to check it with is not here.
        FOREIGN: it has a MAC that none of the stack's keys has made, or is not where its manifest says.
    """

    OURS = "ours"
    UNPROVEN = "unproven"
    FOREIGN = "foreign"


@dataclass(frozen=True)
class Keys:
    """A stack's keys for its MACs.

    Attributes:
        every: the one in use, and then the earlier ones: a rotation orphans no backup.
        unknown: why they cannot be read here although the stack has some; empty if they can, or it has none.
    """

    every: tuple[Secret, ...] = ()
    unknown: str = ""

    @property
    def exist(self) -> bool:
        """Whether the stack has any, so that a backup without a MAC need not be taken for its own."""
        return bool(self.every or self.unknown)

    def tag(self, purpose: bytes, content: Bytes) -> bytes:
        """Return the MAC of a content, made with the key in use; empty if there is none here."""
        return _tag(self.every[0], purpose, content) if self.every else b""

    def judge(self, purpose: bytes, content: Bytes, tag: bytes) -> Provenance:
        """Return whether a MAC proves a content."""
        if not tag or not self.every:
            return Provenance.UNPROVEN
        made = [hmac.compare_digest(_tag(key, purpose, content), tag) for key in self.every]
        return Provenance.OURS if any(made) else Provenance.FOREIGN


KeysOf = Callable[[], Keys]
"""Reads a stack's keys when they are first needed: that takes a decryption."""

KEYLESS = Keys()


def parsed(value: Secret) -> tuple[Secret, ...]:
    """Return the keys in a secret.

    Raises:
        ValueError: there is something else in it.
    """
    words = value.reveal().split()
    if not words or not all(_KEY.fullmatch(word) for word in words):
        raise ValueError("it is not one or more keys of 64 hexadecimal digits, separated by spaces")
    return tuple(Secret(word) for word in dict.fromkeys(words))


def written(every: tuple[Secret, ...]) -> Secret:
    """Return the secret that holds these keys."""
    return Secret(" ".join(one.reveal() for one in every))


def _tag(key: Secret, purpose: bytes, content: Bytes) -> bytes:
    raw = bytes.fromhex(key.reveal())
    name = hmac.digest(raw, b"name", "sha256").hex()[:16]
    with_purpose = hmac.new(raw, purpose + b"\0", "sha256")
    with_purpose.update(content)
    return f"{name}:{with_purpose.hexdigest()}".encode()
