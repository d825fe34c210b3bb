"""The envelope of a manifest: its content, then a MAC where there is a key for one, then a digest of both.

Content and MAC are told apart in the bytes, before any of them is parsed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from conche.backup import mac
from conche.backup.mac import Keys, Provenance

__all__ = ["ADDED", "Envelope", "closed", "rendered"]

ADDED = ("mac", "digest")
"""The keys that the envelope adds to the content."""

_END = b"\n}\n"
_MAC = rb',\n "mac": "(?P<mac>' + mac.TAG.pattern + rb')"'
_DIGEST = rb',\n "digest": "(?P<digest>[0-9a-f]{64})"\n\}\n'
_DIGEST_LENGTH = len(b',\n "digest": ""\n}\n') + 64
_MAC_LENGTH = len(b',\n "mac": ""') + 16 + 1 + 64
_ENDINGS = (
    (re.compile(_MAC + b"(?P<digested>)" + _DIGEST), _MAC_LENGTH + _DIGEST_LENGTH),
    (re.compile(b"(?P<digested>)" + _DIGEST), _DIGEST_LENGTH),
)
"""How a manifest ends, with a MAC and without, and how many bytes that takes."""


@dataclass(frozen=True)
class Envelope:
    """What the bytes of a manifest are, of which not a bit differs from what was written.

    Attributes:
        size: bytes of its content, without the end of the document.
        tag: the MAC; empty if there is none.
    """

    raw: bytes
    size: int
    tag: bytes = b""

    @classmethod
    def of(cls, raw: bytes) -> Envelope | None:
        """Open a manifest; None if its digest does not fit."""
        for pattern, length in _ENDINGS:
            if len(raw) > length and (ending := pattern.fullmatch(raw, len(raw) - length)):
                digest = hashlib.sha256(memoryview(raw)[: ending.start("digested")])
                digest.update(_END)
                if digest.hexdigest().encode() != ending["digest"]:
                    return None
                return cls(raw, ending.start(), ending.groupdict().get("mac", b""))
        return None

    def provenance(self, keys: Keys) -> Provenance:
        """Return what its MAC proves."""
        return keys.judge(mac.MANIFEST, memoryview(self.raw)[: self.size], self.tag)


def closed(content: Mapping[str, object], keys: Keys) -> bytes:
    """Return the bytes of a manifest, with a MAC by the key in use, if there is one."""
    whole = dict(content)
    if tag := keys.tag(mac.MANIFEST, rendered(whole).removesuffix(_END)):
        whole["mac"] = tag.decode()
    return rendered({**whole, "digest": hashlib.sha256(rendered(whole)).hexdigest()})


def rendered(content: Mapping[str, object]) -> bytes:
    """Return a manifest's JSON."""
    return (json.dumps(content, indent=1, ensure_ascii=True) + "\n").encode()
