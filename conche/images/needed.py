"""Finds the images that a rollback may need: those of the releases recorded in the environments' engines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from conche.engine import containers, state
from conche.formats import ENDING, RELEASE
from conche.stack import Stack
from conche.supply.inventory import engines
from conche.supply.reference import parse

__all__ = ["needed"]


def needed(stack: Stack) -> dict[str, str]:
    """Return digest or image id -> why it must stay, for every good release of every environment.

    Raises:
        Unreachable: an engine cannot be asked, so what it needs is unknown.
        WrittenByNewer: a later version has written a release, so what it needs is unknown.
    """
    found: dict[str, str] = {}
    for engine, names in engines(stack):
        for name in names:
            project = stack.project(name)
            running = [one.image_id for one in containers.of_project(engine, project)]
            files = state.State(engine, project, [*running, *stack.bases]).read()
            for path in sorted(files):
                if path.endswith("/record.json") and _succeeded(files, path):
                    RELEASE.opened(_content(files[path]), path)
                    found.update(_of(files[path], name))
    return found


def _succeeded(files: Mapping[str, bytes], path: str) -> bool:
    """Return whether a release succeeded or has not ended yet; it may need its images then too."""
    ending = files.get(path.replace("record.json", "ending.json"))
    return ending is None or ENDING.opened(_content(ending), path).get("result") == "succeeded"


def _of(record: bytes, environment: str) -> dict[str, str]:
    said = _content(record)
    why = f"release r{said.get('number', '?')} of {environment}"
    services = said.get("services") or {}
    identities = {str(placed.get("image_id", "")) for placed in services.values()}
    identities |= {parse(str(p["image"])).digest for p in services.values() if "@" in str(p.get("image", ""))}
    return {identity: why for identity in identities if identity}


def _content(text: bytes) -> dict[str, Any]:
    """Return a signed file's content; empty if it is damaged, since nobody rolls back to such a release."""
    try:
        said: dict[str, Any] = json.loads(text)["content"]
    except (ValueError, KeyError, TypeError):
        return {}
    return said
