"""Makes containers wait while their data are read, and resumes them afterwards whatever happens.

Containers are noted on disk before they are paused or stopped. After a kill the next command finds the note and resumes
them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conche.backup import belief, notes
from conche.engine import containers, health
from conche.engine.connection import Engine, EngineRefused
from conche.engine.containers import Container
from conche.engine.task_containers import SERVICE
from conche.errors import ConcheError, NotFound, NotRestored, Refused, Unreachable
from conche.files import write_atomic
from conche.formats import WAITING
from conche.process import signals_deferred

if TYPE_CHECKING:
    from conche.backup.site import Site

__all__ = ["Left", "Waited", "give_up", "held", "left", "noted", "recover", "require_none_left", "require_understood"]

NOTE = "waiting.json"
"""The note for the default engine; the name for an engine with an address has a hash in front."""

DAMAGED = "damaged-"
"""Prefix of the name of a note that could not be understood."""

TRIES = 5
"""Number of attempts to pause a running container."""

PAUSE = 0.2
"""Seconds between two attempts."""

RECOVERING = 15.0
"""Seconds within which a container that was paused must work again."""


@dataclass
class Waited:
    """How long containers waited, in words for the manifest, and which of them have not worked since."""

    words: str = "at rest: no container that uses it ran"
    ill: tuple[str, ...] = ()


@dataclass(frozen=True)
class Left:
    """Containers that a killed command has left waiting on an engine, and the volumes they wait for."""

    engine: str | None
    ids: tuple[str, ...]
    volumes: tuple[str, ...]


@dataclass(frozen=True)
class _Note:
    """What to do after a kill: resume these containers, and remove the helpers of these volumes.

    Attributes:
        ids: containers that are paused.
        stopped: containers that are stopped, as requested or because they could not be paused.
    """

    engine: str | None
    volumes: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()
    stopped: tuple[str, ...] = ()

    @classmethod
    def of(cls, content: Any) -> _Note:
        return cls(content["engine"], *(tuple(content[key]) for key in ("volumes", "ids", "stopped")))

    @property
    def waiting(self) -> tuple[str, ...]:
        return (*self.ids, *self.stopped)


@contextlib.contextmanager
def held(store: Path, engine: Engine, address: str | None, users: Sequence[Container], how: str) -> Iterator[Waited]:
    """Pause or stop the running containers for this block, unless `how` is `live`; use within `noted`.

    A container that keeps restarting cannot be paused: it is stopped, and started afterwards. A swarm's task is paused
    in any case: for one that is stopped the swarm would start another.

    Args:
        store: the folder for the note.
        address: the engine's address, as in stack.yaml.
        how: pause, stop or live.
    """
    running = [one for one in users if one.state in ("running", "restarting")]
    waited = Waited()
    if not running or how == "live":
        waited.words = "live: containers went on writing" if running else waited.words
        yield waited
        return
    well = [one for one in running if containers.asked(engine, one).health == "healthy"]
    before = _read(store, address)
    note = _Note(address, before.volumes if before else ())
    begun = time.monotonic()
    try:
        for one in running:
            note = _hold(store, engine, note, one, how)
        yield waited
    finally:
        with signals_deferred():
            note = _only(_read(store, address) or note, [one.id for one in running])
            _go_on(engine, note)
            _write(store, replace(note, ids=(), stopped=()))
        verbs = [verb for verb, ids in (("paused", note.ids), ("stopped", note.stopped)) if ids]
        if verbs:
            names = ", ".join(one.name for one in running if one.id in note.waiting)
            waited.words = f"{' or '.join(verbs)} for {time.monotonic() - begun:.1f} s: {names}"
    waited.ill = _ill(engine, [one for one in well if one.id in note.waiting], None if note.stopped else RECOVERING)


def _ill(engine: Engine, well: Sequence[Container], timeout: float | None) -> tuple[str, ...]:
    """Return which containers were healthy before they waited and are not now, with the reason.

    Their healthchecks are run at once: the engine would only do so after a whole interval. A container that was stopped
    starts anew, and gets the time that its healthcheck allows.
    """
    definitions = {one.service: containers.definition(engine, one) for one in well}
    waiting = health.wait(
        engine,
        lambda: [seen for one in well if (seen := containers.read(engine, one.id))],
        definitions,
        timeout=timeout,
    )
    return tuple(f"{name} {reason}" for name, reason in waiting.failed.items())


def _hold(store: Path, engine: Engine, note: _Note, one: Container, how: str) -> _Note:
    """Note one container, then pause or stop it; return the new note."""
    task = one.labels.get(SERVICE, "")
    state = one.state if how == "pause" or task else ""
    for left in reversed(range(TRIES)):
        if state != "running":
            break
        _write(store, planned := replace(note, ids=(*note.ids, one.id)))
        try:
            containers.pause(engine, one.id)
            return planned
        except (NotFound, EngineRefused):
            # In any case we did not pause it, and a container that somebody else has paused must stay paused.
            _write(store, note)
            seen = containers.read(engine, one.id)
            if seen is None or seen.state not in ("running", "restarting"):
                return note
            # The kernel cannot freeze a container while a healthcheck starts in it, and a crashing one comes and goes.
            state = seen.state
            if (task and state != "running") or (state == "running" and not left):
                raise
            time.sleep(PAUSE)
    if one.goes_when_stopped:
        raise Refused(
            "stop-would-remove",
            f"{one.name} was started with --rm: stopping it for the backup would remove it.",
            next_command=f"docker stop {one.name}    # if it may be removed; or set consistency: pause",
        )
    _write(store, planned := replace(note, stopped=(*note.stopped, one.id)))
    containers.stop(engine, one)
    return planned


@contextlib.contextmanager
def noted(site: Site, address: str | None, *volumes: str) -> Iterator[None]:
    """Note that helpers for these volumes may exist during this block: after a kill the next command removes them."""
    store = site.target.store
    left = _read(store, address)
    if left is not None and left.engine == address and left.waiting:  # the engine did not answer a moment ago
        _go_on(Engine(address), _believed(site, left)[0], belief.own_containers(site, address))
    _write(store, _Note(address, volumes))
    try:
        yield
    except Unreachable as error:
        # The helpers may still exist: keep the note for the next command.
        note = _read(store, address)
        if note is not None and note.waiting:
            raise _not_resumed(note, error) from error
        raise
    except BaseException:
        _forget(store, address)
        raise
    _forget(store, address)


def _forget(store: Path, address: str | None) -> None:
    """Remove the note, unless containers are still waiting."""
    note = _read(store, address)
    if note is None or not note.waiting:
        _file(store, address).unlink(missing_ok=True)


def _file(store: Path, address: str | None) -> Path:
    name = f"{hashlib.sha256(address.encode()).hexdigest()[:16]}.{NOTE}" if address else NOTE
    return store / name


def _write(store: Path, note: _Note) -> None:
    write_atomic(_file(store, note.engine), json.dumps(WAITING.stamped(asdict(note))).encode(), mode=0o600)


def left(site: Site) -> list[Left]:
    """Return what the notes say is still waiting; only the holder of the target knows that those commands are dead."""
    understood, _ = notes.told_apart(site.target.store.glob(f"*{NOTE}"), _parsed)
    believed = [_believed(site, note)[0] for note in understood]
    return [Left(note.engine, note.waiting, note.volumes) for note in believed if note.waiting]


def _believed(site: Site, note: _Note) -> tuple[_Note, list[str]]:
    """Return what a note says of the stack's own engines and volumes, and what else it names.

    Whether a container is the stack's own is only known by its engine: `_go_on` asks.
    """
    if not belief.is_own_engine(site, note.engine):
        return _Note(None), [f"the engine {note.engine or 'of the Docker CLI'}"]
    strange = [f"the volume {one}" for one in note.volumes if not belief.is_own_volume(site, note.engine, one)]
    strange += [f"the container {one}" for one in note.waiting if not belief.is_id(one)]
    kept = tuple(one for one in note.volumes if belief.is_own_volume(site, note.engine, one))
    return replace(_only(note, filter(belief.is_id, note.waiting)), volumes=kept), strange


def _only(note: _Note, ids: Iterable[str]) -> _Note:
    wanted = list(ids)  # a forged note may have anything in it, hashable or not
    waiting = (tuple(one for one in some if one in wanted) for some in (note.ids, note.stopped))
    return _Note(note.engine, note.volumes, *waiting)


def require_understood(site: Site) -> None:
    """Raise the error of a note that is damaged, if there is one."""
    for file in sorted(site.target.store.glob(f"*{NOTE}")):
        _parsed(file)


def recover(site: Site) -> list[NotRestored]:
    """Resume containers that a killed command has left waiting, and remove its helpers.

    Returns:
        What could not be done; it stays noted for the next command.
    """
    problems = []
    for file in sorted(site.target.store.glob(f"*{NOTE}")):
        try:
            _recover(site, file)
        except NotRestored as error:
            for line in (error.message, *error.next_command.splitlines()):
                site.say(f"warning: {line}")
            problems.append(error)
    return problems


def require_none_left(site: Site) -> None:
    """Check that no container still waits; only the holder of the target knows that it is left.

    Raises:
        NotRestored: with the command for each.
    """
    understood, _ = notes.told_apart(site.target.store.glob(f"*{NOTE}"), _parsed)
    for note in (_believed(site, one)[0] for one in understood):
        if note.waiting:
            raise _left_waiting(note, "Paused or stopped containers were not resumed.")


def give_up(site: Site) -> None:
    """Forget which containers wait: somebody else will resume them."""
    for file in site.target.store.glob(f"*{NOTE}"):
        file.unlink()


def _recover(site: Site, file: Path) -> None:
    from conche.engine.volumes import clear_helpers

    try:
        note = _parsed(file)
    except notes.Damaged:
        _put_by(site, file)
        return
    if note is not None and file.name.startswith(DAMAGED):
        _put_by(site, file, "names what is not of this stack")
        return
    if note is not None:
        note, strange = _believed(site, note)
        engine = Engine(note.engine)
        if note.waiting:
            site.say("an earlier command left containers paused or stopped: resuming them")
            strange += _go_on(engine, note, belief.own_containers(site, note.engine))
        for one in strange:
            site.say(f"warning: {file} names {one}, which is not of this stack: ignored")
        try:
            for volume in note.volumes:
                clear_helpers(engine, volume)
        except Unreachable as error:
            site.say(f"warning: what an earlier command left on the engine stays for now: {error.message}")
            _write(site.target.store, replace(note, ids=(), stopped=()))
            if file == _file(site.target.store, note.engine):
                return
        if strange:
            _put_by(site, file, "names what is not of this stack")
            return
    file.unlink(missing_ok=True)


def _put_by(site: Site, file: Path, how: str = "is damaged") -> None:
    """Say what is wrong with a note, and keep it where no other note is written over it."""
    if not file.name.startswith(DAMAGED):
        kept = file.with_name(f"{DAMAGED}{uuid.uuid4().hex}.{NOTE}")
        os.replace(file, kept)
        file = kept
    site.say(f"warning: {file} {how}: containers that an earlier command paused or stopped may still be so")
    site.say("warning: run: docker ps --all --filter status=paused --filter status=exited")
    site.say("warning: then: invoke backup.settle --as-it-is    # forgets it")


def _read(store: Path, address: str | None) -> _Note | None:
    return _parsed(_file(store, address))


def _parsed(file: Path) -> _Note | None:
    return notes.read(file, WAITING, _Note.of)


def _go_on(engine: Engine, note: _Note, own: belief.Own = lambda _: True) -> list[str]:
    """Resume every container that still waits and is the stack's own; return the others, in words.

    Raises:
        NotRestored: one could not be resumed; the note has to stay.
    """
    problem: ConcheError | None = None
    strange = []
    for one in note.waiting:
        starts = one in note.stopped
        try:
            seen = containers.read(engine, one)
            if seen is not None and not own(seen):
                strange.append(f"the container {seen.name}")
            elif seen is not None and seen.state == "paused" and not starts:
                containers.unpause(engine, one)
            elif seen is not None and seen.state in ("exited", "created") and starts:
                containers.start(engine, one)
        except ConcheError as error:
            problem = problem or error
    if problem is not None:
        raise _not_resumed(note, problem) from problem
    return strange


def _not_resumed(note: _Note, error: ConcheError) -> NotRestored:
    return _left_waiting(note, f"Paused or stopped containers could not be resumed: {error.message}", error.evidence)


def _left_waiting(note: _Note, said: str, evidence: Sequence[str] = ()) -> NotRestored:
    commands = [f"docker {'start' if one in note.stopped else 'unpause'} {one[:12]}" for one in note.waiting]
    return NotRestored(
        "containers-left-waiting",
        said,
        evidence=[*evidence, "By hand:", *commands],
        next_command="\n".join(["invoke backup.settle    # tries again", *commands]),
    )
