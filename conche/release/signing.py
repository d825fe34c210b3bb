"""Reads and writes files of an environment's state: signed with their own digest, or small and taken as they are.

The envelope of a signed file is the same in every format, so each version can tell a damaged file from a newer one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from conche import formats
from conche.formats import Format, WrittenByNewer

__all__ = ["FORMATS", "newest", "packed", "read", "signed", "verified"]

FORMATS = {
    "record.json": formats.RELEASE,
    "ending.json": formats.ENDING,
    "frozen.json": formats.FREEZE,
    "maintenance.json": formats.MAINTENANCE,
    "scale.json": formats.SCALE,
    "handover.json": formats.HANDOVER,
    "scaling.json": formats.SCALING,
}
"""Format of each file that can be read without a key, by its name."""

SIGNED = ("record.json", "ending.json")


def signed(kind: Format, content: Mapping[str, object]) -> bytes:
    """Return a content as it is kept, with its stamp and a digest of both."""
    whole = kind.stamped(content)
    digest = hashlib.sha256(_canonical(whole).encode()).hexdigest()
    return json.dumps({"sha256": digest, "content": whole}, indent=1).encode()


def verified(said: bytes | None) -> dict[str, Any] | None:
    """Return what was signed, with its stamp; None if it is missing, or not what was written."""
    try:
        document = json.loads(said or b"")
        content: dict[str, Any] = document["content"]
        digest = hashlib.sha256(_canonical(content).encode()).hexdigest()
        return content if digest == document["sha256"] and isinstance(content, dict) else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def packed(kind: Format, content: Mapping[str, object]) -> bytes:
    """Return a small file as it is kept, with its stamp."""
    return json.dumps(kind.stamped(content)).encode()


def read(said: bytes | None, unreadable: dict[str, Any]) -> dict[str, Any]:
    """Read a small file, with its stamp; empty if there is none."""
    try:
        parsed = json.loads(said) if said else {}
    except (ValueError, RecursionError):
        return unreadable
    return parsed if isinstance(parsed, dict) else unreadable


def newest(files: Mapping[str, bytes]) -> WrittenByNewer | None:
    """Return an error for the first file whose format this version does not know; None if it knows all of them."""
    for path in sorted(files):
        name = path.rpartition("/")[2]
        if name in FORMATS:
            content = verified(files[path]) if name in SIGNED else read(files[path], {})
            if problem := FORMATS[name].newer(content, path):
                return problem
    return None


def _canonical(content: Mapping[str, object]) -> str:
    return json.dumps(content, sort_keys=True)
