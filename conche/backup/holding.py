"""Containers that wait while their data are read or exchanged, and go on afterwards whatever happens.

What is about to be paused or stopped is written down first. After a kill the next command finds that note, and lets
the containers go on.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
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

__all__ = ["Waited", "held", "noted", "recover"]

NOTE = "waiting.json"


@dataclass
class Waited:
    """How long containers waited, in words for the manifest."""

    words: str = "at rest: no container that uses it ran"


@dataclass(frozen=True)
class _Note:
    """What to do after a kill: let these containers go on, and remove the helpers of these volumes."""

    engine: str | None
    volumes: tuple[str, ...] = ()
    action: str = "unpause"
    ids: tuple[str, ...] = ()


@contextlib.contextmanager
def held(store: Path, engine: Engine, address: str | None, users: Sequence[Container], how: str) -> Iterator[Waited]:
    """Inside, those of the containers that ran are paused or stopped; `live` leaves them alone. Stands inside `noted`.

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
    before = _read(store)
    note = _Note(address, before.volumes if before else (), action, tuple(one.id for one in running))
    _write(store, note)
    begun = time.monotonic()
    try:
        for one in running:
            (containers.pause if how == "pause" else containers.stop)(engine, one.id)
        yield waited
    finally:
        with signals_deferred():
            _go_on(engine, note)
            _write(store, replace(note, ids=()))
        verb = "paused" if how == "pause" else "stopped"
        waited.words = f"{verb} for {time.monotonic() - begun:.1f} s: {', '.join(one.name for one in running)}"


@contextlib.contextmanager
def noted(store: Path, address: str | None, *volumes: str) -> Iterator[None]:
    """Inside, helpers are made for these volumes: after a kill the next command removes them."""
    _write(store, _Note(address, volumes))
    try:
        yield
    finally:
        (store / NOTE).unlink()


def _write(store: Path, note: _Note) -> None:
    write_atomic(store / NOTE, json.dumps(asdict(note)).encode(), mode=0o600)


def recover(site: Site) -> None:
    """Let containers go on that a killed command has left waiting, and remove its helpers."""
    from conche.engine.volumes import clear_helpers

    note = _read(site.target.store)
    if note is not None:
        engine = Engine(note.engine)
        if note.ids:
            site.say(f"a killed command left containers waiting: {note.action}")
        _go_on(engine, note)
        for volume in note.volumes:
            clear_helpers(engine, volume)
    (site.target.store / NOTE).unlink(missing_ok=True)


def _read(store: Path) -> _Note | None:
    try:
        content = json.loads((store / NOTE).read_text())
        return _Note(content["engine"], tuple(content["volumes"]), content["action"], tuple(content["ids"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


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
