"""Which environments a repository has: a decision by the names of its files, what is in them, and their calls."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from conche.init.files import Found

__all__ = ["Candidate", "candidates", "named_projects", "slug"]

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
"""What people call an environment -> what it is called here."""

DEFAULT, BESIDE = "dev", "main"
"""What the environment of the files that Compose takes by itself is called; the second where another one is dev."""


@dataclass(frozen=True)
class Candidate:
    """An environment as it will stand in stack.yaml.

    Attributes:
        files: in the order in which Compose merges them.
        project: its Compose project; empty for the one that stack.yaml implies.
        otherwise: other files that it may mean, where nothing decides.
        rival: the environment that has the project which plain `docker compose` gives this one too.
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
    """A name as stack.yaml takes it: small letters and digits, in parts joined by `-` or `_`, a letter first."""
    plain = re.sub(r"[-_]*-[-_]*", "-", re.sub(r"[^a-z0-9_]+", "-", text.lower()))
    plain = re.sub(r"_+", "_", plain).strip("-_")[:60].strip("-_")
    if not plain:
        return fallback
    return plain if plain[0].isalpha() else f"{fallback}-{plain}"


def candidates(
    found: Found, services: Mapping[Path, Collection[str]], alone: Callable[[Path], bool]
) -> list[Candidate]:
    """The environments, the one that Compose takes by itself first.

    Args:
        services: Compose file -> the services that it names.
        alone: whether Compose takes one file by itself.
    """
    others: dict[str, Candidate] = {}
    for file, said in found.variants.items():
        name = _free(KNOWN.get(said.lower(), slug(said, "env")), others)
        files, otherwise = _files(found, services, file, alone)
        others[name] = Candidate(name, files, otherwise=otherwise)
    first = list(_default(found, others))
    return [*first, *sorted(others.values(), key=lambda one: (one.name != "dev", one.name == "prod", one.name))]


def _default(found: Found, others: Mapping[str, Candidate]) -> Iterator[Candidate]:
    if not found.default:
        return
    if "dev" not in others:
        yield Candidate(DEFAULT, found.default)
    elif others["dev"].files[:1] != found.default[:1] or len(found.default) > 1:
        yield Candidate(_free(BESIDE, others), found.default)


def _free(name: str, taken: Collection[str]) -> str:
    """The name, or with a number the first one that nobody has."""
    number = 2
    free = name
    while free in taken:
        free, number = f"{name}-{number}", number + 1
    return free


def _files(
    found: Found, services: Mapping[Path, Collection[str]], file: Path, alone: Callable[[Path], bool]
) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """The files of a variant, and those that it may mean as well."""
    written = next((files for files in found.used if files[-1] == file), None)
    if written is not None:
        return written, ()
    base = found.default[:1]
    if not base:
        return (file,), ()
    own, below = set(services[file]), set(services[base[0]])
    merged = (*base, file)
    if not own & below:
        return ((file,), ()) if own and alone(file) else (merged, ())
    if not alone(file):
        return merged, ()
    # What names every service again and can stand by itself is no addition to the other file.
    return ((file,), merged) if own >= below else (merged, (file,))


def named_projects(
    found: Sequence[Candidate], stack: str, called: Mapping[str, str], runs: Mapping[str, Collection[str]]
) -> list[Candidate]:
    """The same with their Compose projects: what is there keeps its names, its volumes first of all.

    Args:
        stack: name of the stack.
        called: environment -> the project that plain `docker compose` gives it.
        runs: environment -> containers that run of its services under that name, and of no others.
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
