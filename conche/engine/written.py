"""Reads Compose files as written, without Compose, which would need their variables.

What they include and what their services extend is read too, as far as no variable says where it is.
Sources: https://docs.docker.com/reference/compose-file/include/ and .../services/#extends
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from conche import shallow_yaml
from conche.errors import Refused

__all__ = ["Written", "named_in", "services"]


class _ComposeLoader(yaml.SafeLoader):
    """A SafeLoader that ignores Compose's own tags, such as !reset."""


_ComposeLoader.add_multi_constructor("!", lambda _loader, _tag, _node: None)


@dataclass(frozen=True)
class Written:
    """A service as it is written.

    Attributes:
        body: its definition, which is not validated, over that of what it extends.
        folder: that the path of its build starts from.
    """

    name: str
    body: Mapping[str, Any]
    folder: Path


def services(file: Path) -> list[Written]:
    """Return the services that a file describes, and those of the files that it includes.

    Raises:
        Refused: one of them is not YAML.
    """
    found, seen, left = list[Written](), set[Path](), [(file, file.parent)]
    while left:
        one, folder = left.pop()
        if one.resolve() in seen:
            continue
        seen.add(one.resolve())
        content = _content(one)
        bodies = _mapping(content.get("services"))
        found += [_extended(one, Written(name, _mapping(body), folder), bodies) for name, body in bodies.items()]
        left += reversed([*_included(content.get("include"), folder)])
    return found


def _included(said: Any, folder: Path) -> Iterator[tuple[Path, Path]]:
    """Yield the files that are included, each with the folder that its paths start from."""
    for one in said if isinstance(said, list) else ():
        entry = one if isinstance(one, dict) else {"path": one}
        paths = entry.get("path")
        files = [file for path in (paths if isinstance(paths, list) else [paths]) if (file := _file(folder, path))]
        base = entry.get("project_directory")
        for file in files:
            yield file, folder / base if isinstance(base, str) else files[0].parent


def _extended(file: Path, service: Written, bodies: Mapping[str, Any]) -> Written:
    """Return a service with all that it has from those that it extends, one after the other."""
    seen, extended = {(file, service.name)}, service.body.get("extends")
    while extended:
        said = extended if isinstance(extended, dict) else {"service": extended}
        other = _file(file.parent, said["file"]) if "file" in said else file
        name = str(said.get("service"))
        if other is None or (other, name) in seen:
            break
        seen.add((other, name))
        bodies = bodies if other == file else _mapping(_content(other).get("services"))
        folder, file, body = service.folder if other == file else other.parent, other, _mapping(bodies.get(name))
        service = _over(Written(name, body, folder), service)
        extended = body.get("extends")
    return service


def _over(below: Written, above: Written) -> Written:
    """Return what is written for a service over that of another."""
    environment = {**_pairs(below.body.get("environment")), **_pairs(above.body.get("environment"))}
    body = {**below.body, **above.body, **({"environment": environment} if environment else {})}
    inherited = "build" in below.body and "build" not in above.body
    return replace(above, body=body, folder=below.folder if inherited else above.folder)


def _pairs(said: Any) -> dict[str, Any]:
    if isinstance(said, list):
        return dict(str(line).partition("=")[::2] for line in said)
    return dict(_mapping(said))


def _mapping(said: Any) -> Mapping[str, Any]:
    return said if isinstance(said, dict) else {}


def _file(folder: Path, path: Any) -> Path | None:
    """Return a file that another one names; None if only Compose could tell where it is, or it is not there."""
    there = isinstance(path, str) and "$" not in path and (folder / path).is_file()
    return folder / path if there else None


def _content(file: Path) -> Mapping[str, Any]:
    try:
        content = shallow_yaml.load(file.read_text(encoding="utf-8"), _ComposeLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise Refused(
            "compose-file-invalid",
            f"{file.name} is not YAML.",
            looked_at=[str(file)],
            evidence=str(error).splitlines()[-3:],
            next_command=f"docker compose --file '{file}' config --quiet    # shows more",
        ) from error
    return _mapping(content)


def named_in(files: Iterable[Path], variables: Mapping[str, str]) -> dict[str, str]:
    """Return those variables whose names are words of the files: interpolated, or given to a container as they are."""
    words = {word for file in files for word in re.findall(r"\w+", file.read_text(encoding="utf-8"), re.ASCII)}
    return {name: value for name, value in variables.items() if name in words}
