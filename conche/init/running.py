"""Which Compose project an environment has, by what runs of it already; else by what Compose would call it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from conche.engine import containers
from conche.engine.connection import Engine
from conche.engine.projects import made_from
from conche.errors import ConcheError
from conche.init.compose import Rendered
from conche.init.environments import Candidate

__all__ = ["Projects", "projects"]


@dataclass(frozen=True)
class Projects:
    """What is there.

    Attributes:
        called: environment -> its project.
        runs: environment -> services of it that have containers in that project.
    """

    called: dict[str, str]
    runs: dict[str, Collection[str]] = field(default_factory=dict)


def projects(root: Path, found: Sequence[Candidate], rendered: Mapping[str, Rendered]) -> Projects:
    """Ask the engine; one that cannot be asked knows of nothing."""
    seen = Projects({one.name: rendered[one.name].project for one in found})
    engine = Engine()
    try:
        for one in found:
            there = made_from(engine, [root / file for file in one.files])
            same = [project for project in there if project.name == seen.called[one.name]]
            for project in (same or there)[:1]:
                seen.called[one.name], seen.runs[one.name] = project.name, project.services
        for one in found:
            # Of a checkout elsewhere, or of other files of this one: by the name and the services alone.
            project_name = seen.called[one.name]
            if one.name in seen.runs or project_name in [seen.called[other] for other in seen.runs]:
                continue
            services = {container.service for container in containers.of_project(engine, project_name)}
            if services and services <= set(rendered[one.name].services):
                seen.runs[one.name] = services
    except ConcheError:
        return Projects({one.name: rendered[one.name].project for one in found})
    return seen
