"""Finds Compose projects by the files they were made from, using their containers' labels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from conche.engine.connection import Engine, translated
from conche.engine.containers import LABEL, Container

__all__ = ["Project", "made_from", "made_from_others"]


@dataclass(frozen=True)
class Project:
    """A Compose project that has containers, running or not."""

    name: str
    services: frozenset[str]


def made_from(engine: Engine, files: Sequence[Path]) -> list[Project]:
    """Return the projects whose containers were made from exactly these Compose files.

    Args:
        files: absolute, in the order in which Compose was given them: it records them so.
    """
    label = f"{LABEL}.project.config_files={','.join(map(str, files))}"
    with translated(engine.address):
        found = engine.client.api.containers(all=True, filters={"label": [label, f"{LABEL}.oneoff=False"]})
    services: dict[str, set[str]] = {}
    for one in found:
        labels = one["Labels"]
        services.setdefault(labels[f"{LABEL}.project"], set()).add(labels[f"{LABEL}.service"])
    return [Project(name, frozenset(those)) for name, those in sorted(services.items())]


def made_from_others(found: Iterable[Container], files: Sequence[Path]) -> list[Path]:
    """Return the first Compose file of each other checkout that containers were made from, if it is still there.

    Args:
        files: of this checkout.
    """
    said = {one.labels.get(f"{LABEL}.project.config_files", "").partition(",")[0] for one in found}
    ours = {file.resolve() for file in files}  # plain Compose writes down the path that it was called with
    others = (Path(one) for one in sorted(said) if one.startswith("/"))
    return [one for one in others if one.is_file() and one.resolve() not in ours]
