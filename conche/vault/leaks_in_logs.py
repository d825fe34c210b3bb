"""Searches logs: the output of every environment's containers, and the files below logs/."""

from __future__ import annotations

import contextlib
import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from conche.engine import containers, swarm, task_containers
from conche.engine.connection import Engine
from conche.errors import ConcheError
from conche.stack import TRIAL, Stack
from conche.vault.leaks import UNREADABLE, Leak, Needles, folded, shown

__all__ = ["FOLDER", "scan_container_logs", "scan_log_files"]

FOLDER = "logs"
"""The folder of log files in a checkout; git ignores it, so the search of the checkout skips it."""


def scan_container_logs(stack: Stack, needles: Needles) -> tuple[Leak, ...]:
    """Search the logs of every environment's containers, running or not, including trials and one-offs.

    stdout and stderr are searched separately, because either may interrupt a value on the other; a finding has the line
    within its own stream. What cannot be read is reported as `UNREADABLE`.
    """
    found: list[Leak] = []
    for name, environment in stack.environments.items():
        engine = Engine(environment.engine)
        project = stack.project(name)
        try:
            if environment.swarm:
                found += _on_swarm(engine, name, project, needles)
            for one in (project, project + TRIAL):
                for container in (*containers.of_project(engine, one), *containers.one_off(engine, one)):
                    found += _of_container(engine, container, f"{name} {container.service}", needles)
        except ConcheError:
            found.append(Leak(UNREADABLE, f"{name} at {engine.address}", "log"))
    return folded(found)


def _on_swarm(engine: Engine, name: str, project: str, needles: Needles) -> Iterator[Leak]:
    """Search this node's tasks; the logs of tasks on other nodes are kept only by those nodes' engines."""
    for service, container in task_containers.of_stack(engine, project):
        yield from _of_container(engine, container, f"{name} {service}", needles)
    for node in swarm.others(engine):
        yield Leak(UNREADABLE, f"{name} on node {node.name}", "log")


def _of_container(engine: Engine, container: containers.Container, service: str, needles: Needles) -> Iterator[Leak]:
    for stream in containers.STREAMS:
        place = f"{service} {container.name} {stream}"
        try:
            written = _Joined(containers.logged(engine, container.id, stream))
            for hit in needles.hits(io.BufferedReader(written)):
                yield Leak(hit.name, f"{place}:{hit.line}", "log", hit.line)
        except ConcheError:
            # A logging driver such as syslog keeps nothing that can be read here.
            yield Leak(UNREADABLE, place, "log")


def scan_log_files(root: Path, needles: Needles) -> tuple[Leak, ...]:
    """Search the files below logs/, including rotated ones compressed with gzip; links are not followed."""
    found: list[Leak] = []
    for path in sorted((root / FOLDER).rglob("*")):
        if path.is_symlink() or not path.is_file():
            continue
        place = shown(needles, str(path.relative_to(root)))
        try:
            with _opened(path) as stream:
                hits = list(needles.hits(stream))
        except (OSError, EOFError, zlib.error):
            found.append(Leak(UNREADABLE, place, "log"))
            continue
        found += [Leak(hit.name, f"{place}:{hit.line}", "log", hit.line) for hit in hits]
    return folded(found)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    with path.open("rb") as plain:
        compressed = plain.read(2) == b"\x1f\x8b"
        plain.seek(0)
        yield cast(IO[bytes], gzip.GzipFile(fileobj=plain)) if compressed else plain


class _Joined(io.RawIOBase):
    """Joins pieces of bytes into one stream, as they arrive."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = piece
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count
