"""Find how a repository uses its secrets: in .env, and in Compose's variables and `secrets:`. No value is returned."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from conche.init.sealed import Chosen, SopsFile, spellings
from conche.secret import SECRET_NAME
from conche.vault.forms import form_of

__all__ = ["Declared", "declared", "in_dotenv"]


@dataclass(frozen=True)
class Declared:
    """A secret as stack.yaml will declare it.

    Attributes:
        variable: empty if it is the name in capital letters.
        path: its keys in the file, joined by dots; empty if it is where it is looked for.
        environments: that have it; empty for all.
        file: whether services read it as a file.
        reads: whether a Compose file interpolates it.
    """

    name: str
    variable: str = ""
    path: str = ""
    environments: tuple[str, ...] = ()
    file: bool = False
    reads: bool = True
    services: tuple[str, ...] = ()


def in_dotenv(text: str) -> tuple[str, ...]:
    """Return the variables of a .env file that are named like secrets and have a value."""
    pairs = re.findall(r"^[ \t]*(?:export[ \t]+)?([A-Za-z_]\w*)[ \t]*[=:][ \t]*(\S?)", text, re.MULTILINE)
    return tuple(dict.fromkeys(name for name, value in pairs if value and SECRET_NAME.search(name)))


def declared(
    chosen: Chosen,
    environments: Sequence[str],
    mentioned: Collection[str],
    secrets: Mapping[str, Any],
    services: Mapping[str, Any],
    dotenv: Collection[str] = (),
) -> list[Declared]:
    """Return how the Compose files use the values of SOPS files.

    Args:
        environments: all of them, in order.
        mentioned: variables that the Compose files mention.
        secrets: the section of the rendered document.
        services: as Compose renders them.
        dotenv: variables of .env: what is given to a container from there keeps its name.
    """
    asked = {*mentioned, *(str(said["environment"]) for said in secrets.values() if said.get("environment"))}
    found = []
    for name in dict.fromkeys(name for file in chosen.files for name in file.paths):
        holders = [file for file in chosen.files if name in file.paths]
        forms = spellings(name, holders[0].paths[name])
        variable = next((one for one in forms if one in asked), "")
        called = variable or next((one for one in forms if one in dotenv), "")
        keys = [key for key, said in secrets.items() if _file(said) == f"{name}.txt"]
        users = [
            service
            for service, body in services.items()
            if any(given.get("source") in keys for given in body.get("secrets") or [])
        ]
        given = "" if called in ("", name.upper()) else called
        having = tuple(one for one in environments if (file := chosen.of(one)) and name in file.paths)
        found.append(
            Declared(
                name,
                given,
                path=".".join(_place(name, given, holders)),
                environments=having if having != tuple(environments) else (),
                file=bool(keys),
                reads=bool(variable) or not keys,
                services=tuple(users),
            )
        )
    return found


def _file(said: Mapping[str, Any]) -> str:
    return PurePath(str(said.get("file") or "")).name


def _place(name: str, variable: str, holders: Sequence[SopsFile]) -> Sequence[str]:
    """Return where the value is, unless it is looked for there anyway."""
    path = holders[0].paths[name]
    # In dotenv, a value is looked for under its variable.
    usual = all(file.usual(name) and not (variable and form_of(file.file.name) == "dotenv") for file in holders)
    # A file of other people is taken as one if a place in it is given.
    told = any(file.foreign and all(map(file.usual, file.paths)) for file in holders)
    return () if (usual and not told) or any("." in key for key in path) else path
