"""A service as a release has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Placed"]


@dataclass(frozen=True)
class Placed:
    """A service as a release has it.

    Attributes:
        image: its reference, by digest if it has one.
        image_id: its id on the engine.
        definition: sha256 of what the Compose document says of it, without what changes with every release.
        hashes: Compose's own hashes of it, which its containers carry; none if it is to have no container.
        ends: whether it is meant to end; None if that was not kept.
        follows: services with which it is restarted.
    """

    image: str
    image_id: str
    revision: str
    definition: str
    hashes: tuple[str, ...]
    ends: bool | None = None
    follows: tuple[str, ...] = ()

    @classmethod
    def read(cls, said: Mapping[str, Any]) -> Placed:
        """Build it from what a record says, without fields that a later version has added."""
        known: dict[str, Any] = {key: value for key, value in said.items() if key in cls.__dataclass_fields__}
        return cls(**known | {key: tuple(known[key]) for key in ("hashes", "follows") if key in known})

    def same_as(self, other: Placed | None) -> bool:
        """Return whether another release has this service with the same image and definition."""
        return other is not None and (self.image, self.definition) == (other.image, other.definition)
