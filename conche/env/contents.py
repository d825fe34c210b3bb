"""Compares the configs and secrets of an environment's Compose files with what its containers have.

Compose mounts a config or secret that comes from a file; one that is written in the Compose file or comes from a
variable it copies into the container on creation. Neither is part of the hash by which it knows that a service has
changed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from conche.engine.compose import Compose, Configuration
from conche.engine.containers import Container
from conche.engine.inside import file_in
from conche.engine.rendered import plain
from conche.errors import Refused
from conche.process import environment
from conche.stack import Secrets

__all__ = [
    "KINDS",
    "Content",
    "contents_of_service",
    "differs",
    "ignored",
    "is_rendered",
    "may_have_contents",
    "outdated",
    "ungiven",
    "value_of",
]

KINDS = ("configs", "secrets")
"""The sections of a Compose file whose entries are files in a container."""


@dataclass(frozen=True)
class Content:
    """A config or a secret as one service has it.

    Attributes:
        kind: config or secret.
        key: its name in the Compose file.
        target: its path in the container.
        said: the definition, as Compose renders it.
    """

    kind: str
    key: str
    target: str
    said: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.kind} {self.key}"


def contents_of_service(rendered: Mapping[str, Any], service: str) -> Iterator[Content]:
    """Yield the configs and secrets of a service, without those that Compose does not make itself."""
    for kind in KINDS:
        defined = rendered.get(kind) or {}
        for given in rendered["services"][service].get(kind) or []:
            said = defined.get(given["source"]) or {}
            if not said.get("external"):
                yield Content(kind[:-1], given["source"], _target(kind, given), said)


def _target(kind: str, given: Mapping[str, Any]) -> str:
    """Return where Compose puts it: https://docs.docker.com/reference/compose-file/services/#configs"""
    root = "/run/secrets/" if kind == "secrets" else "/"
    return str(PurePosixPath(root) / str(given.get("target") or given["source"]))


def value_of(content: Content, compose: Compose) -> bytes | None:
    """Return a content that is written in the Compose file itself, or comes from a variable.

    Returns:
        None for what comes from a file.

    Raises:
        Refused: the variable is not set.
    """
    if content.said.get("file"):
        return None
    variable = content.said.get("environment")
    if not variable:
        return plain(content.said.get("content") or "").encode()
    known = environment(compose.environment())
    if variable not in known:
        raise Refused(
            "variable-missing",
            f"The {content} takes its content from the variable {variable}, which is not set.",
            next_command=f"write {variable}=... into .env, or export it",
        )
    return known[variable].encode()


def ignored(configuration: Configuration) -> list[str]:
    """Describe the owners and modes that Compose ignores: a config or secret from a file is that file, mounted."""
    return [
        f"{said}: Compose ignores this where the content comes from a file, so that it has the owner and mode of {file}"
        for _, said, file in _asked_for(configuration)
        if file
    ]


def ungiven(configuration: Configuration) -> list[str]:
    """Describe the owners and modes that the containers of a release do not have, as `release.document` explains."""
    return [
        f"{said}: not in a release, whose copy belongs to root and can be read by every user of its container"
        for kind, said, file in _asked_for(configuration)
        if file or kind == "secrets"
    ]


def _asked_for(configuration: Configuration) -> Iterator[tuple[str, str, str]]:
    """Yield the configs and secrets that ask for an owner or a mode: their kind, what they ask for, and their file."""
    for name, body in (configuration.rendered.get("services") or {}).items():
        for kind in KINDS:
            for given in body.get(kind) or ():
                said = [key for key in ("uid", "gid", "mode") if given.get(key) is not None]
                file = ((configuration.rendered.get(kind) or {}).get(given["source"]) or {}).get("file")
                if said:
                    yield kind, f"{', '.join(said)} of the {kind[:-1]} {given['source']} of {name}", plain(file or "")


def may_have_contents(files: Iterable[Path], section: Secrets | None) -> bool:
    """Return whether Compose files may name configs, or secrets other than the files written from this section."""
    for file in files:
        text = file.read_text(encoding="utf-8")
        if re.search(r"\b(configs|include|extends|content)[\"']?\s*:|\benvironment:[ \t]*[\"']?\w", text):
            return True
        named = re.findall(r"\bfile:[ \t]*[\"']?([^\s,}\"']+)", text)
        if any(not is_rendered(one, section) for one in named):
            return True
    return False


def outdated(
    compose: Compose, configuration: Configuration, found: Sequence[Container], section: Secrets | None
) -> dict[str, str]:
    """Return service -> a config or secret with other content than its containers were given, in words.

    A copy that its container has written to since it was started does not show what was given.

    Args:
        section: secret files that are written from it are left out.
    """
    changed: dict[str, str] = {}
    for name in configuration.services if configuration.rendered else ():
        for content in contents_of_service(configuration.rendered, name):
            if content.kind == "secret" and is_rendered(plain(content.said.get("file", "")), section):
                continue
            if any(differs(compose, content, one) for one in found if one.service == name):
                changed.setdefault(name, f"{content} changed")
    return changed


def is_rendered(file: str, section: Secrets | None) -> bool:
    """Return whether secrets.render writes the file at this path."""
    if section is None:
        return False
    path = PurePath(file)
    return path.parent.name == section.folder.name and path.stem in {*section.declared, *section.htpasswd}


def differs(compose: Compose, content: Content, container: Container) -> bool:
    """Return whether a container was given something else than a content is now."""
    if content.said.get("file"):
        return compose.engine.is_local and _newer(Path(plain(content.said["file"])), container)
    try:
        wanted = value_of(content, compose)
    except Refused:
        return False  # reported when something is to be started
    had = file_in(compose.engine, container.id, content.target)
    if had is None:
        return bool(wanted)
    inside, written = had
    if container.started_at is not None and written > container.started_at.timestamp():
        return False
    return inside != wanted


def _newer(path: Path, container: Container) -> bool:
    """Return whether a file was written or replaced since the container was started."""
    try:
        seen = path.stat()
    except OSError:
        return False
    return container.started_at is not None and container.started_at.timestamp() < max(seen.st_mtime, seen.st_ctime)
