"""Decide which environments a repository has: by its files' names, their content, and how scripts call Compose."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from conche.init.files import ComposeFiles

__all__ = ["ProposedEnvironment", "candidates", "named_projects", "slug"]

KNOWN = {
    "develop": "dev",
    "development": "dev",
    "devel": "dev",
    "local": "dev",
    "production": "prod",
    "live": "prod",
    "release": "prod",
    "stage": "staging",
}
"""Common names for an environment -> its name here."""

DEFAULT, BESIDE = "dev", "main"
"""Names for the environment of Compose's default files; the second is used if another environment is dev."""


@dataclass(frozen=True)
class ProposedEnvironment:
    """An environment as it will be in stack.yaml.

    Attributes:
        files: in the order in which Compose merges them.
        project: its Compose project; empty for the one that stack.yaml implies.
        otherwise: the other files that it may consist of, if nothing decides.
        rival: the environment that has the project name which plain `docker compose` would give this one too.
    """

    name: str
    files: tuple[Path, ...]
    project: str = ""
    otherwise: tuple[Path, ...] = ()
    rival: str = ""

    @property
    def protected(self) -> bool:
        return self.name == "prod"


def slug(text: str, fallback: str = "stack") -> str:
    """Make text a name for stack.yaml: lower-case letters and digits, parts joined by `-` or `_`, a letter first."""
    plain = re.sub(r"[-_]*-[-_]*", "-", re.sub(r"[^a-z0-9_]+", "-", text.lower()))
    plain = re.sub(r"_+", "_", plain).strip("-_")[:60].strip("-_")
    if not plain:
        return fallback
    return plain if plain[0].isalpha() else f"{fallback}-{plain}"


def candidates(
    found: ComposeFiles, services: Mapping[Path, Collection[str]], alone: Callable[[Path], bool]
) -> list[ProposedEnvironment]:
    """Return the environments, the one of Compose's default files first.

    Args:
        services: Compose file -> the services that it names.
        alone: returns whether Compose accepts a file by itself.
    """
    others: dict[str, ProposedEnvironment] = {}
    for file, said in found.variants.items():
        name = _free(KNOWN.get(said.lower(), slug(said, "env")), others)
        files, otherwise = _files(found, services, file, alone)
        others[name] = ProposedEnvironment(name, files, otherwise=otherwise)
    first = list(_default(found, others))
    return [*first, *sorted(others.values(), key=lambda one: (one.name != "dev", one.name == "prod", one.name))]


def _default(found: ComposeFiles, others: Mapping[str, ProposedEnvironment]) -> Iterator[ProposedEnvironment]:
    if not found.default:
        return
    if "dev" not in others:
        yield ProposedEnvironment(DEFAULT, found.default)
    elif others["dev"].files[:1] != found.default[:1] or len(found.default) > 1:
        yield ProposedEnvironment(_free(BESIDE, others), found.default)


def _free(name: str, taken: Collection[str]) -> str:
    """Return the name, with the lowest number that makes it free if it is taken."""
    number = 2
    free = name
    while free in taken:
        free, number = f"{name}-{number}", number + 1
    return free


def _files(
    found: ComposeFiles, services: Mapping[Path, Collection[str]], file: Path, alone: Callable[[Path], bool]
) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Return the files of a variant, and the other files that it may consist of."""
    written = next((files for files in found.used if files[-1] == file), None)
    if written is not None:
        return written, ()
    base = found.default[:1] or ((found.base,) if found.base else ())
    if not base:
        return (file,), ()
    own, below = set(services[file]), set(services[base[0]])
    merged = (*base, file)
    if not own & below:
        return ((file,), ()) if own and alone(file) else (merged, ())
    if not alone(file):
        return merged, ()
    # A file that repeats every service and is complete by itself does not extend the other one.
    return ((file,), merged) if own >= below else (merged, (file,))


def named_projects(
    found: Sequence[ProposedEnvironment], stack: str, called: Mapping[str, str], runs: Mapping[str, Collection[str]]
) -> list[ProposedEnvironment]:
    """Return the environments with their Compose projects, so that what exists keeps its names, above all volumes.

    Args:
        stack: name of the stack.
        called: environment -> the project that plain `docker compose` gives it.
        runs: environment -> its services that have containers under that name.
    """
    holders: dict[str, str] = {}
    for one in sorted(found, key=lambda one: not runs.get(one.name)):
        holders.setdefault(called[one.name], one.name)
    named = []
    for one in found:
        holder = holders[called[one.name]]
        implied = f"{stack}-{one.name}"
        project = called[one.name] if holder == one.name and called[one.name] != implied else ""
        named.append(replace(one, project=project, rival="" if holder == one.name else holder))
    return named
