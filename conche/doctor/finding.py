"""What one check of a doctor has found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Finding"]


@dataclass(frozen=True)
class Finding:
    """What was found out about one prerequisite.

    Attributes:
        state: ok, missing (and needed), or optional (and not there).
        next_command: what to type when it is not ok.
        versions: of what was checked, by name.
        code: of the error with which the check failed.
        plain: `found` does not reveal whose machine it is, so a report may contain it.
    """

    name: str
    state: str
    found: str
    needed: str
    next_command: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    code: str = ""
    plain: bool = False
