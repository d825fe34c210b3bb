"""Compare stack.yaml with what `conche init` would write now: additions and changes, never removals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["Proposal", "proposals"]

Proposal = tuple[str, str, Any]
"""A key by its dotted path, its present value in words, and the value it could have."""

SETTLED = ("name", "project", "health", "tag", "target", "file", "protected", "driver")
"""Keys that a person chooses: their values stay, and no change is proposed."""


def proposals(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Proposal]:
    """Return what `after` has and `before` lacks or has differently.

    Args:
        before: stack.yaml as it is.
        after: as it would be written now.
    """
    return list(_differences(before, _as_called(before, after), ""))


def _as_called(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Return `after` with the names that a person gave the same environments, and without what is backed up already."""
    known = {tuple(said.get("compose") or ()): name for name, said in _below(before, "environments").items()}
    names = {
        name: known.get(tuple(said.get("compose") or ()), name) for name, said in _below(after, "environments").items()
    }
    environments = {names[name]: said for name, said in _below(after, "environments").items()}
    kept = {_subject(one) for one in _below(_below(before, "backup"), "components").values()}
    found = {
        name: {**one, **({"environment": names.get(one["environment"], "")} if "environment" in one else {})}
        for name, one in _below(_below(after, "backup"), "components").items()
    }
    components = {name: one for name, one in found.items() if _subject(one) not in kept}
    renamed = {key: value for key, value in after.items() if key != "format"} | {"environments": environments}
    if components:
        return {**renamed, "backup": {**after["backup"], "components": components}}
    return {key: value for key, value in renamed.items() if key != "backup"}


def _below(said: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = said.get(key)
    return found if isinstance(found, Mapping) else {}


def _subject(component: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what a component backs up, whatever its name and driver."""
    if component.get("driver") == "secrets":
        return ("secrets",)
    # A volume and a folder are the same in every environment; a service is another one in each.
    keys = ("service", "environment") if component.get("service") else ("volume", "paths")
    return tuple(str(component.get(key) or "") for key in keys)


def _differences(before: Mapping[str, Any], after: Mapping[str, Any], path: str) -> Iterator[Proposal]:
    for key, value in after.items():
        place = f"{path}.{key}" if path else str(key)
        if key not in before:
            yield place, "is not there", value
        elif isinstance(value, Mapping) and isinstance(before[key], Mapping):
            yield from _differences(before[key], value, place)
        elif value != before[key] and key not in SETTLED:
            yield place, str(before[key]), value
