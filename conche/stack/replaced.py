"""Keys that stack.yaml no longer has: what to write instead, in the error and by `conche upgrade`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["REPLACED", "ReplacedKey", "replaced"]


@dataclass(frozen=True)
class ReplacedKey:
    """A key that was renamed or removed.

    Attributes:
        path: where it was; `*` stands for any name or number.
        name: what it is called now, in the same mapping; empty if it was removed.
        instead: what to write now, as the second half of a sentence.
    """

    path: tuple[str, ...]
    name: str
    instead: str

    def is_at(self, path: Sequence[str | int]) -> bool:
        return len(path) == len(self.path) and all(
            mine in ("*", str(part)) for mine, part in zip(self.path, path, strict=True)
        )


REPLACED: tuple[ReplacedKey, ...] = ()
"""All of them since format 1, which has every key that was ever released."""


def replaced(path: Sequence[str | int]) -> ReplacedKey | None:
    """Return what became of the key at a path, if it was renamed or removed."""
    return next((one for one in REPLACED if one.is_at(path)), None)
