"""Reads the small files of an environment's state: what is wanted of it beyond its releases, or under way in it.

A file that cannot be read is never taken for a missing one: it might say that the maintenance page is to be shown, or
which containers have given way to a release that was killed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from conche import formats
from conche.formats import Format

__all__ = ["DesiredState", "described"]

MEANINGS = {
    "maintenance.json": "whether the maintenance page is shown",
    "scale.json": "how many containers env.scale wants",
    "handover.json": "which containers have given their port to the edge",
    "scaling.json": "which service is being scaled",
}
"""What each file tells."""

T = TypeVar("T")


def described(files: Iterable[str]) -> str:
    """Return the names of files with what each tells."""
    return ", ".join(f"{name} ({MEANINGS[name]})" for name in files)


@dataclass(frozen=True)
class DesiredState:
    """What is wanted of an environment, by its small files; a missing, unreadable or later one says nothing.

    Attributes:
        maintained: whether the edge is to show the maintenance page.
        replicas: service -> how many containers of it are wanted.
        handover: a release, and the ids of the containers that it stops to give their port to its edge.
        scaling: the service that is being scaled, and the number it settles at.
        damaged: the files that are there and cannot be read.
    """

    maintained: bool
    replicas: Mapping[str, int]
    handover: tuple[str, tuple[str, ...]]
    scaling: tuple[str, int] | None
    damaged: tuple[str, ...]

    @classmethod
    def read(cls, files: Mapping[str, bytes]) -> DesiredState:
        """Read them from the files of a state."""
        damaged: list[str] = []
        nobody: tuple[str, tuple[str, ...]] = ("", ())

        def content(name: str, kind: Format, parsed: Callable[[Any], T], otherwise: T) -> T:
            if name not in files:
                return otherwise
            try:
                whole = json.loads(files[name])
                return otherwise if kind.newer(whole) else parsed(whole)
            except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
                damaged.append(name)
                return otherwise

        return cls(
            content("maintenance.json", formats.MAINTENANCE, _maintained, False),  # noqa: FBT003 - the default
            content("scale.json", formats.SCALE, _replicas, {}),
            content("handover.json", formats.HANDOVER, _handover, nobody),
            content("scaling.json", formats.SCALING, _scaling, None),
            tuple(damaged),
        )


def _maintained(whole: Any) -> bool:
    return _of(bool, formats.MAINTENANCE.opened(whole)["on"])


def _replicas(whole: Any) -> dict[str, int]:
    wanted = _of(dict, formats.SCALE.entries(whole, "replicas"))
    return {_of(str, service): _count(count) for service, count in wanted.items()}


def _handover(whole: Any) -> tuple[str, tuple[str, ...]]:
    said = formats.HANDOVER.opened(whole)
    return _of(str, said["release"]), tuple(_of(str, one) for one in _of(list, said["containers"]))


def _scaling(whole: Any) -> tuple[str, int] | None:
    said = _of(dict, formats.SCALING.opened(whole))
    return (_of(str, said["service"]), _count(said["count"])) if said else None


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise TypeError(value)
    return value


def _of(kind: type[T], value: object) -> T:
    """Return a value of the kind that it must have.

    Raises:
        TypeError: it has another one.
    """
    if not isinstance(value, kind):
        raise TypeError(value)
    return value
