"""Where a restore may put what a backup holds: only where stack.yaml says that it comes from.

A manifest names the places of its files. Whoever can write to the target can write a manifest, so its word alone would
let them replace any file of the checkout.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from pathlib import Path

from conche.backup.reading import Reading
from conche.backup.site import Site
from conche.backup.source import Source
from conche.backup.staging import places
from conche.errors import Refused
from conche.stack import Component

__all__ = ["require_declared"]

SHOWN = 5
"""How many places are named of those that are not declared."""


def require_declared(backup: str, sources: Iterable[Source]) -> None:
    """Refuse a restore in place of what stack.yaml does not declare, or declares otherwise.

    Raises:
        Refused: a component is not in stack.yaml, has another driver there, or has files in the backup that its paths
            do not cover.
    """
    for source in sources:
        component = source.site.section.components.get(source.name)
        if component is None:
            raise _refused(backup, source, "is no component in stack.yaml")
        if component.driver != source.record.driver:
            raise _refused(
                backup, source, f"is of {source.record.driver} there, and of {component.driver} in stack.yaml"
            )
        if strange := [place for place in places(source) if not _is_declared(source.site, component, place)]:
            more = [f"and {len(strange) - SHOWN} more"] if len(strange) > SHOWN else []
            looked_at = [*(str(place).encode(errors="backslashreplace").decode() for place in strange[:SHOWN]), *more]
            raise _refused(backup, source, "has files there that its paths in stack.yaml do not cover", looked_at)


def _is_declared(site: Site, component: Component, place: Path) -> bool:
    """Return whether a backup made now would hold this place as a part of the component."""
    if component.driver == "secrets":
        section = site.stack.secrets
        return section is not None and str(place) in (*map(str, section.all_files), ".sops.yaml")
    if component.driver == "archive":
        return any(Path(path) == place for path in component.paths)
    never = Reading(exclude=site.never())
    through = [place, *place.parents][: len(place.parts)]
    if any(never.excludes(str(one)) for one in through):
        return False
    return any(_matches(one, pattern) for pattern in component.paths for one in [*through, Path()])


def _matches(place: Path, pattern: str) -> bool:
    """Return whether a path is one that `Path.glob` would find by this pattern."""
    return _match(place.parts, Path(pattern).parts)


def _match(names: Sequence[str], rules: Sequence[str]) -> bool:
    if not rules:
        return not names
    if rules[0] == "**":
        return any(_match(names[count:], rules[1:]) for count in range(len(names) + 1))
    return bool(names) and fnmatch.fnmatchcase(names[0], rules[0]) and _match(names[1:], rules[1:])


def _refused(backup: str, source: Source, why: str, looked_at: Sequence[str] = ()) -> Refused:
    return Refused(
        "restore-not-declared",
        f"{source.name} of {backup} {why}, so nothing says where it belongs.",
        looked_at=looked_at,
        next_command=f"invoke backup.restore {backup} --component {source.name} --target FOLDER    # then move it",
    )
