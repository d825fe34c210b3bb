"""Ask Compose about files: whatever Compose decides is left to it. That needs no engine."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from conche import shallow_yaml
from conche.engine.bombs import refuse_bombs
from conche.engine.compose import complaint
from conche.engine.rendered import plain, understood
from conche.engine.settings import SETTINGS
from conche.errors import Refused
from conche.init.env_files import example_of, missing, without
from conche.init.files import LARGEST
from conche.process import Completed, run

__all__ = ["Rendered", "accepts", "render"]

MOST_KEYS = 20_000
"""Most keys to search for the line of a complaint."""

_NAMED = re.compile(r"(?:services|volumes|networks|secrets|configs)(?:\.[\w.-]+)+")


@dataclass(frozen=True)
class Rendered:
    """Files as Compose renders them.

    Attributes:
        document: with the services of every profile.
        active: services that `docker compose up` starts: those without a profile or with one that .env names.
        warnings: Compose's own, such as for unset variables.
        lacking: service -> its env files that are not there; it is rendered without them.
    """

    document: Mapping[str, Any] = field(repr=False)
    active: frozenset[str]
    warnings: tuple[str, ...] = ()
    lacking: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def project(self) -> str:
        return str(self.document["name"])

    @property
    def services(self) -> Mapping[str, Any]:
        return self.document.get("services") or {}


def render(root: Path, files: Sequence[Path], given: Mapping[str, str], project: str = "") -> Rendered:
    """Have Compose render the files.

    Args:
        given: variables beside those of the shell and .env.
        project: the Compose project; default: the one that Compose chooses.

    Raises:
        Refused: it does not accept them, with its own message, and the line if it can be found.
        Unreachable: there is no Compose v2.
    """
    refuse_bombs(root, [root / file for file in files], {**_shell(), **given})
    named = ("--project-name", project) if project else ()
    whole = _answer(root, files, _asked(root, files, given, (*named, "--profile", "*"), ("--format", "json")))
    profiles = _has_profiles(whole[0])
    names = _answer(root, files, _asked(root, files, given, named, ("--services",))) if profiles else None
    document = json.loads(plain(whole[0]))
    services = document.get("services") or {}
    active = frozenset(names[0].split()) if names else frozenset(services)
    return Rendered(
        understood({**document, "services": services}, document["name"]), active, whole[1], missing(root, files)
    )


def _has_profiles(text: str) -> bool:
    return '"profiles"' in text


def accepts(root: Path, files: Sequence[Path], given: Mapping[str, str]) -> bool:
    """Return whether Compose accepts these files together; it is not asked about files that would never let it end."""
    try:
        refuse_bombs(root, [root / file for file in files], {**_shell(), **given})
    except Refused:
        return False
    return _asked(root, files, given, (), ("--quiet",)).ok


def _asked(
    root: Path, files: Sequence[Path], given: Mapping[str, str], options: Sequence[str], words: Sequence[str]
) -> Completed:
    """Run `docker compose config`, without the env files that are not there."""
    lacking = missing(root, files)
    named = [part for file in (*map(str, files), *(["-"] if lacking else [])) for part in ("--file", file)]
    argv = ("docker", "compose", *named, *options, "config", *words)
    beside = without(lacking).encode() if lacking else b""
    return run(argv, cwd=root, stdin=beside, extra_env={**given, **_shell()}, timeout=60)


def _answer(root: Path, files: Sequence[Path], done: Completed) -> tuple[str, tuple[str, ...]]:
    """Return what Compose answers, and its warnings; raises `Refused` with its complaint."""
    if not done.ok:
        refused = complaint(done)
        if isinstance(refused, Refused):
            said = done.stderr.raw
            refused.looked_at = tuple(_places(root, files, said)) or refused.looked_at
            lacking = re.search(r"required variable ([A-Za-z_]\w*) is missing", said)
            example = example_of(root, ".env") if lacking and not (root / ".env").exists() else ""
            copied = f"cp {example} .env    # and write {lacking[1]}=… into it" if lacking and example else ""
            written = f"write {lacking[1]}=… into .env" if lacking else "correct what it names"
            refused.next_command = f"{copied or written}, then: conche init"
        raise refused
    return done.stdout.raw, tuple(_warnings(done.stderr.raw))


def _shell() -> dict[str, str]:
    """Return the shell's variables for interpolation, without those that configure Compose and the Docker CLI."""
    return {name: value for name, value in os.environ.items() if name not in SETTINGS}


def _warnings(text: str) -> Iterator[str]:
    for line in text.splitlines():
        match = re.search(r'level=warning msg="((?:[^"\\]|\\.)*)"', line)
        # Nothing depends on `version`, and no file of theirs has to be changed for us.
        if match and "`version` is obsolete" not in match[1]:
            yield match[1].replace('\\"', '"')


def _places(root: Path, files: Sequence[Path], said: str) -> Iterator[str]:
    """Find what Compose complains about in the files; its own messages often give no line."""
    wanted = [*_NAMED.findall(said), *re.findall(r'service "([^"]+)"', said)]
    further = re.findall(r"Additional property (\S+) is not allowed", said)
    for file in files:
        lines = dict(_lines(root / file))
        for name in wanted:
            path = name if "." in name else f"services.{name}"
            for place in (*(f"{path}.{one}" for one in further), path):
                if place in lines:
                    yield f"{file}:{lines[place]}  {place}"
                    break
        if fault := _fault(root / file):
            yield f"{file}:{fault}"


def _fault(file: Path) -> int:
    """Return the line where a file stops being YAML, 0 if it never does; Compose gives that of the outer construct."""
    try:
        shallow_yaml.compose(file.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        return error.problem_mark.line + 1 if error.problem_mark else 0
    except (OSError, yaml.YAMLError, UnicodeDecodeError, RecursionError):
        return 0
    return 0


def _lines(file: Path) -> Iterator[tuple[str, int]]:
    """Yield the dotted path and line of every key; nothing if a file is not YAML."""
    try:
        node = shallow_yaml.compose(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError, RecursionError):
        return
    left: list[tuple[str, yaml.Node | None]] = [("", node)]
    for _ in range(min(MOST_KEYS, LARGEST)):
        if not left:
            return
        path, below = left.pop()
        for key, value in below.value if isinstance(below, yaml.MappingNode) else ():
            name = f"{path}.{key.value}" if path else str(key.value)
            yield name, key.start_mark.line + 1
            left.append((name, value))
