"""What a note in the target is believed of: only what is the stack's own.

Whoever can write to the target can write a note. So what it names is compared with stack.yaml before an engine is
called, and with what the engine says before anything is done to a container.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from conche.backup.site import Site
from conche.engine import volumes
from conche.engine.connection import Engine
from conche.engine.containers import Container

__all__ = ["Own", "is_bucket", "is_folder", "is_id", "is_own_engine", "is_own_volume", "own_containers"]

Own = Callable[[Container], bool]

_ID = re.compile(r"[0-9a-f]{1,64}", re.ASCII)
_FOLDER = re.compile(r"/tmp/conche-backup-[0-9a-f]{32}", re.ASCII)  # noqa: S108 - of a container
_BUCKET = re.compile(r".+_drill_[0-9a-f]{8}", re.ASCII | re.DOTALL)


def is_id(text: object) -> bool:
    """Return whether this can be the id of a container, or a program's number: anything else could be another path."""
    return isinstance(text, str) and _ID.fullmatch(text) is not None


def is_folder(text: object) -> bool:
    """Return whether this is a folder that we make in a container; it is removed with all that is in it."""
    return isinstance(text, str) and _FOLDER.fullmatch(text) is not None


def is_bucket(text: object) -> bool:
    """Return whether a drill could have made a bucket of this name."""
    return isinstance(text, str) and _BUCKET.fullmatch(text) is not None


def is_own_engine(site: Site, address: str | None) -> bool:
    """Return whether an environment is on the engine with this address."""
    return any(one.engine == address for one in site.stack.environments.values())


def is_own_volume(site: Site, address: str | None, volume: str) -> bool:
    """Return whether a component has this volume on that engine, or a drill could have made it there."""
    drills = (re.escape(f"{project}-drill-") + "[0-9a-f]{8}" for project in _projects(site, address))
    return volume in _volumes(site, address) or any(re.fullmatch(drill, str(volume)) for drill in drills)


def own_containers(site: Site, address: str | None) -> Own:
    """Return what tells the stack's own containers on that engine: those of an environment, or users of its volumes."""
    projects, named, engine = _projects(site, address), _volumes(site, address), Engine(address)
    return lambda one: one.project in projects or any(one.id == user.id for user in volumes.using(engine, *named))


def _projects(site: Site, address: str | None) -> set[str]:
    return {site.stack.project(name) for name, one in site.stack.environments.items() if one.engine == address}


def _volumes(site: Site, address: str | None) -> list[str]:
    environments = site.stack.environments
    return [
        one.volume
        for one in site.section.components.values()
        if one.volume and one.environment and environments[one.environment].engine == address
    ]
