"""Locks an environment in its engine, so that a laptop, a cron job and a CI runner exclude one another.

A container's name is unique in an engine, so creating one is atomic. The lock's container reads its standard input, of
which we hold the other end: however we die, its input ends, and the container goes and frees the name.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from conche.engine.connection import OF_NO_PROJECT, Engine, translated
from conche.errors import ConcheError, Locked, NotRestored
from conche.formats import LOCK
from conche.process import signals_deferred
from conche.units import span

__all__ = ["ADVICE", "Held", "Holder", "hold", "holder"]

LABEL = "io.conche.lock"

PAUSE = 0.2
"""Seconds between two attempts."""

UNSTARTED = 30.0
"""Seconds after which a lock that was created but never started is abandoned: its maker died in between."""

DYING = 10.0
"""Seconds that a lock may outlive a holder that we can see is dead."""

UNUSABLE = (400, 404)
"""Statuses for an image that is missing, or that lacks the program: another image may do."""

ADVICE = "wait for it to end, or let this command wait: --lock-wait 600"
"""Advice shown when somebody else holds an environment."""

READER = ["cat"]
"""The command that runs in the lock's container; every image with a shell has it."""


@dataclass(frozen=True)
class Holder:
    """The holder of a lock: who, where, since when and for what."""

    who: str
    where: str
    process: str
    purpose: str
    since: str

    def __str__(self) -> str:
        held = (datetime.now(UTC) - datetime.fromisoformat(self.since)).total_seconds() if self.since else 0.0
        return f"{self.who} on {self.where} (process {self.process}), for {span(held)}: {self.purpose}"


@dataclass(frozen=True)
class Held:
    """A lock that we hold."""

    engine: Engine
    container: str

    def verify(self) -> None:
        """Ensure that it is still ours, before a step that must not be taken twice.

        Raises:
            NotRestored: somebody has removed it, or the engine was restarted.
        """
        import docker.errors

        with translated(self.engine.address):
            try:
                state = self.engine.client.api.inspect_container(self.container)["State"]["Status"]
            except docker.errors.NotFound:
                state = "gone"
        if state != "running":
            raise NotRestored(
                "lock-lost",
                "The lock was lost while we held it: its container was removed, or the engine restarted.",
                looked_at=[f"container {self.container[:12]} is {state}"],
                next_command="invoke env.status\ninvoke env.recover",
            )


def name_of(project: str) -> str:
    """Return the name of the container that is a project's lock."""
    return f"{project}-lock"


def holder(engine: Engine, project: str) -> Holder | None:
    """Return who holds a project's lock now, if anybody does."""
    found = _inspect(engine, name_of(project))
    return _holder(found) if found is not None and found["State"]["Status"] == "running" else None


@dataclass(frozen=True)
class _Patience:
    """How a lock is waited for.

    Attributes:
        wait: seconds to wait for another holder.
        say: called once with the holder we wait for.
    """

    wait: float
    clock: Callable[[], float]
    pause: Callable[[float], None]
    say: Callable[[str], None]


@contextlib.contextmanager
def hold(
    engine: Engine,
    project: str,
    purpose: str,
    images: Sequence[str],
    *,
    wait: float = 0.0,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
    say: Callable[[str], None] = lambda _: None,
) -> Iterator[Held | None]:
    """Exclude every other client of this engine from a project for this block.

    Args:
        purpose: what the lock is for, such as `invoke env.deploy --env prod`.
        images: images on the engine; the container is made from the first that works.
        wait: seconds to wait for another holder.
        say: called once with the holder we wait for, or if no image works.

    Yields:
        The lock; None if none of the images works, so that only the machine's own lock protects.

    Raises:
        Locked: exit code 7, with the holder.
        WrittenByNewer: a later version holds it, or has left it, in a format unknown to this one.
    """
    container = _taken(engine, project, purpose, images, _Patience(wait, clock, pause, say))
    if container is None:
        say(f"{project}: the engine has no image yet, so its lock keeps out only commands of this machine")
        yield None
        return
    identity, connection = container
    try:
        yield Held(engine, identity)
    finally:
        # An engine that does not answer has no lock any more; the error already being raised is the one to show.
        with contextlib.suppress(OSError, ConcheError):
            connection.close()
            _removed(engine, identity, clock, pause)


def _taken(
    engine: Engine, project: str, purpose: str, images: Sequence[str], patience: _Patience
) -> tuple[str, Any] | None:
    import docker.errors

    told, candidates, begun = False, list(images), patience.clock()
    while candidates:
        try:
            # A signal between its creation and our learning its id would leave it behind.
            with translated(engine.address, but=(docker.errors.APIError,)), signals_deferred():
                return _created(engine, project, purpose, candidates[0])
        except docker.errors.APIError as error:
            if error.status_code in UNUSABLE:
                candidates.pop(0)
                continue
            if error.status_code != 409:
                with translated(engine.address):
                    raise
        found = _inspect(engine, name_of(project))
        if found is not None:
            LOCK.labelled(found["Config"].get("Labels") or {}, LABEL, name_of(project))
        if found is not None and not _abandoned(engine, found):
            # The engine notices a killed holder only a moment after its death.
            dying = _died_here(found) and patience.clock() - begun < DYING
            if patience.clock() - begun >= patience.wait and not dying:
                raise Locked(
                    "environment-locked",
                    f"{project} is locked by {_holder(found)}.",
                    next_command=ADVICE,
                )
            if not told and not dying:
                patience.say(f"waiting for {_holder(found)}")
                told = True
        patience.pause(PAUSE)
    return None


def _created(engine: Engine, project: str, purpose: str, image: str) -> tuple[str, Any]:
    """Start a lock, and return its container's id and our end of its input."""
    import docker.errors

    labels = {
        **OF_NO_PROJECT,
        LABEL: project,
        f"{LABEL}.who": _user(),
        f"{LABEL}.where": socket.gethostname(),
        f"{LABEL}.process": str(os.getpid()),
        f"{LABEL}.purpose": purpose,
        f"{LABEL}.since": datetime.now(UTC).isoformat(timespec="seconds"),
        **LOCK.labels(LABEL),
    }
    api = engine.client.api
    created: dict[str, Any] = api.create_container(
        image,
        entrypoint=READER,
        command=[],
        name=name_of(project),
        stdin_open=True,
        labels=labels,
        user="65534:65534",
        healthcheck={"test": ["NONE"]},
        host_config=api.create_host_config(auto_remove=True, network_mode="none", restart_policy=None),
    )
    identity = str(created["Id"])
    try:
        connection = api.attach_socket(identity, params={"stdin": 1, "stream": 1})
        api.start(identity)
    except BaseException:
        with contextlib.suppress(docker.errors.APIError):
            api.remove_container(identity, force=True, v=True)
        raise
    return identity, connection


def _abandoned(engine: Engine, found: dict[str, Any]) -> bool:
    """Return whether nobody holds it, and remove it then: it has ended, or its maker died before starting it."""
    import docker.errors

    state = found["State"]["Status"]
    if state in ("running", "paused", "restarting"):
        return False
    with translated(engine.address):
        if state == "created" and _age(engine, found) < UNSTARTED:
            return False
        with contextlib.suppress(docker.errors.APIError):
            engine.client.api.remove_container(found["Id"], force=True, v=True)
    return True


def _age(engine: Engine, found: dict[str, Any]) -> float:
    """Return the seconds since it was created, by the engine's own clock: ours may be wrong."""
    now, made = (datetime.fromisoformat(text) for text in (engine.client.info()["SystemTime"], found["Created"]))
    return (now - made).total_seconds()


def _died_here(found: dict[str, Any]) -> bool:
    """Return whether its holder was a process of this machine that no longer exists."""
    held = _holder(found)
    if held.where != socket.gethostname() or not held.process.isdigit():
        return False
    try:
        os.kill(int(held.process), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _removed(engine: Engine, identity: str, clock: Callable[[], float], pause: Callable[[float], None]) -> None:
    """Remove it and wait until it is gone, so that the next command does not find its name taken."""
    import docker.errors

    deadline = clock() + 10
    with translated(engine.address):
        while clock() < deadline:
            with contextlib.suppress(docker.errors.APIError):
                engine.client.api.remove_container(identity, force=True, v=True)
            if _inspect(engine, identity) is None:
                return
            pause(PAUSE / 4)


def _inspect(engine: Engine, name: str) -> dict[str, Any] | None:
    import docker.errors

    with translated(engine.address):
        try:
            found: dict[str, Any] = engine.client.api.inspect_container(name)
        except docker.errors.NotFound:
            return None
    return found


def _holder(found: dict[str, Any]) -> Holder:
    labels = found["Config"].get("Labels") or {}
    return Holder(*(labels.get(f"{LABEL}.{one}", "") for one in ("who", "where", "process", "purpose", "since")))


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
