"""Find each environment's Compose project: from its existing containers, else the name Compose would give it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from conche.engine import containers, volumes
from conche.engine.connection import Engine
from conche.engine.projects import made_from
from conche.errors import ConcheError
from conche.init.compose import Rendered
from conche.init.environments import ProposedEnvironment

__all__ = ["Projects", "left_behind", "projects"]


@dataclass(frozen=True)
class Projects:
    """The projects of the environments.

    Attributes:
        called: environment -> its project.
        runs: environment -> its services that have containers in that project.
    """

    called: dict[str, str]
    runs: dict[str, Collection[str]] = field(default_factory=dict)


def projects(root: Path, found: Sequence[ProposedEnvironment], rendered: Mapping[str, Rendered]) -> Projects:
    """Ask the engine for the projects; if it cannot be asked, take the names that Compose would give."""
    seen = Projects({one.name: rendered[one.name].project for one in found})
    engine = Engine()
    try:
        for one in found:
            there = made_from(engine, [root / file for file in one.files])
            same = [project for project in there if project.name == seen.called[one.name]]
            for project in (same or there)[:1]:
                seen.called[one.name], seen.runs[one.name] = project.name, project.services
        for one in found:
            # Containers made from another checkout or other files: recognised by project and service names only.
            project_name = seen.called[one.name]
            if one.name in seen.runs or project_name in [seen.called[other] for other in seen.runs]:
                continue
            services = {container.service for container in containers.of_project(engine, project_name)}
            if services and services <= set(rendered[one.name].services):
                seen.runs[one.name] = services
    except ConcheError:
        return Projects({one.name: rendered[one.name].project for one in found})
    return seen


def left_behind(
    found: Sequence[ProposedEnvironment], before: Mapping[str, Rendered], after: Mapping[str, Rendered]
) -> list[str]:
    """Return warnings about volumes on the engine that an environment loses, since another one keeps the project.

    Args:
        before: as Compose renders the files for the project that it chooses.
        after: for the project that stack.yaml gives the environment.
    """
    engine, warnings = Engine(), []
    for one in found:
        names = {key: str(said.get("name")) for key, said in (before[one.name].document.get("volumes") or {}).items()}
        new = after[one.name].document.get("volumes") or {}
        lost = [key for key, name in names.items() if one.rival and new[key].get("name") != name]
        warnings += [
            f"{one.name}: its volume {key} will be a new one, since {names[key]} belongs to {one.rival}'s project: in"
            f" stack.yaml give `project` to {one.name} instead, or in the Compose file give the volume this `name`"
            for key in lost
            if _exists(engine, names[key])
        ]
    return warnings


def _exists(engine: Engine, volume: str) -> bool:
    try:
        return volumes.exists(engine, volume)
    except ConcheError:
        return False
