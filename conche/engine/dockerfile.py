"""Reads a Dockerfile, and finds the base images in it.

Source: https://docs.docker.com/reference/dockerfile/
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conche.engine.rendered import plain

__all__ = ["references", "text_of"]

_ARGUMENT = re.compile(r"\s*ARG\s+(\w+)=(\S+)", re.IGNORECASE)
_STAGE = re.compile(r"\s*FROM\s+(?:--\S+\s+)*(\S+)(?:\s+AS\s+(\S+))?", re.IGNORECASE)
_TAKES = re.compile(r"\s*(?:COPY|ADD)\s.*?--from=(\S+)|\s*RUN\s.*?--mount=\S*\bfrom=([^\s,]+)", re.IGNORECASE)


@dataclass
class _Stage:
    """One stage: its base, its name, and the stages or images that it copies or mounts from."""

    base: str
    name: str
    takes: list[str] = field(default_factory=list)


def references(
    dockerfile: str, arguments: Mapping[str, str] | None = None, target: str | None = None
) -> tuple[str, ...]:
    """Return the base images that a Dockerfile asks for, without its own stages and `scratch`.

    Args:
        target: consider only what this stage needs; empty for the last stage, None for all stages.
    """
    stages = _stages(dockerfile, arguments or {})
    wanted = range(len(stages)) if target is None else _needed(stages, target)
    found: dict[str, None] = {}
    for number in sorted(wanted):
        base = stages[number].base
        if base != "scratch" and base.lower() not in {one.name for one in stages[:number] if one.name}:
            found[base] = None
    return tuple(found)


def text_of(said: Mapping[str, Any]) -> str:
    """Return the Dockerfile of a service's `build:`; empty if it cannot be read here.

    Args:
        said: as Compose renders it, with absolute paths.
    """
    if said.get("dockerfile_inline"):
        return plain(said["dockerfile_inline"])
    file = Path(plain(said["context"])) / plain(said.get("dockerfile") or "Dockerfile")
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""  # in a remote repository; or missing, which Compose reports better


def _stages(dockerfile: str, arguments: Mapping[str, str]) -> list[_Stage]:
    values: dict[str, str] = {}
    stages: list[_Stage] = []
    for line in dockerfile.splitlines():
        if match := _ARGUMENT.match(line):
            values.setdefault(match[1], arguments.get(match[1], match[2].strip("\"'")))
        elif match := _STAGE.match(line):
            base = re.sub(r"\$\{?(\w+)\}?", lambda name: values.get(name[1], name[0]), match[1])
            stages.append(_Stage(base, (match[2] or "").lower()))
        elif stages and (match := _TAKES.match(line)):
            stages[-1].takes.append(match[1] or match[2])
    return stages


def _needed(stages: Sequence[_Stage], target: str) -> set[int]:
    """Return the numbers of the stages that building `target` runs."""
    left = [_number(stages, target, len(stages))] if target else [len(stages) - 1]
    found: set[int] = set()
    while left:
        number = left.pop()
        if number < 0 or number in found:
            continue
        found.add(number)
        stage = stages[number]
        left += [_number(stages, one, number) for one in (stage.base, *stage.takes)]
    return found


def _number(stages: Sequence[_Stage], name: str, before: int) -> int:
    """Return the number of the stage that `name` means among those before `before`; -1 for none."""
    if name.isdigit():
        return int(name) if int(name) < before else -1
    return next((number for number in reversed(range(before)) if stages[number].name == name.lower()), -1)
