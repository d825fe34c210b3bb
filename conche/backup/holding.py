"""Containers that wait while their data are read or exchanged, and go on afterwards whatever happens.

What is about to be paused or stopped is written down first. After a kill the next command finds that note, and lets
the containers go on.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from conche.engine import containers
from conche.engine.connection import Engine
from conche.engine.containers import Container
from conche.errors import ConcheError
from conche.files import write_atomic
from conche.process import signals_deferred

if TYPE_CHECKING:
    from conche.backup.site import Site

__all__ = ["Waited", "held", "recover"]

NOTE = "waiting.json"


@dataclass
class Waited:
    """How long containers waited, in words for the manifest."""

    words: str = "at rest: no container that uses it ran"


@dataclass(frozen=True)
class _Note:
    engine: str | None
    action: str
    ids: tuple[str, ...]


@contextlib.contextmanager
def held(store: Path, engine: Engine, address: str | None, users: Sequence[Container], how: str) -> Iterator[Waited]:
    """Inside, those of the containers that ran are paused or stopped; `live` leaves them alone.

    Args:
        store: folder for the note.
        address: the engine's, as stack.yaml has it.
        how: pause, stop or live.
    """
    running = [one for one in users if one.state == "running"]
    waited = Waited()
    if not running or how == "live":
        waited.words = "live: containers went on writing" if running else waited.words
        yield waited
        return
    action = "unpause" if how == "pause" else "start"
    note = _Note(address, action, tuple(one.id for one in running))
    write_atomic(store / NOTE, json.dumps(asdict(note)).encode(), mode=0o600)
    begun = time.monotonic()
    try:
        for one in running:
            (containers.pause if how == "pause" else containers.stop)(engine, one.id)
        yield waited
    finally:
        with signals_deferred():
            _go_on(engine, note)
            (store / NOTE).unlink()
        verb = "paused" if how == "pause" else "stopped"
        waited.words = f"{verb} for {time.monotonic() - begun:.1f} s: {', '.join(one.name for one in running)}"


def recover(site: Site) -> None:
    """Let containers go on that a killed command has left waiting, and remove its helpers."""
    from conche.engine.volumes import clear_helpers

    file = site.target.store / NOTE
    if not file.exists():
        return
    try:
        content = json.loads(file.read_text())
        note = _Note(content["engine"], content["action"], tuple(content["ids"]))
    except (ValueError, KeyError, TypeError):
        file.unlink()
        return
    engine = Engine(note.engine)
    site.say(f"a killed command left containers waiting: {note.action}")
    _go_on(engine, note)
    clear_helpers(engine)
    file.unlink()


def _go_on(engine: Engine, note: _Note) -> None:
    problems: list[ConcheError] = []
    for one in note.ids:
        try:
            seen = containers.read(engine, one)
            if seen is not None and seen.state == "paused" and note.action == "unpause":
                containers.unpause(engine, one)
            elif seen is not None and seen.state in ("exited", "created") and note.action == "start":
                containers.start(engine, one)
        except ConcheError as error:
            problems.append(error)
    if problems:
        raise problems[0]
