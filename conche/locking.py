"""Which locks a command takes and in which order, and how it locks environments.

An environment is locked twice: by the kernel against this user's commands on this machine, and by its engine against
everybody's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import StrEnum

from conche.command import Invocation
from conche.engine import containers, lock
from conche.engine.connection import Engine
from conche.engine.lock import Held
from conche.errors import Locked
from conche.files import lock as file_lock
from conche.stack import Stack

__all__ = [
    "EVERY",
    "KEPT",
    "LEFT",
    "NAMED",
    "NOTHING",
    "SECRETS",
    "TAKEN",
    "TOUCHED",
    "Lock",
    "Takes",
    "every",
    "everywhere",
    "here",
    "locked",
    "ordered",
    "readers",
]


class Lock(StrEnum):
    """What commands lock, in the order of locking: a command that holds one lock never waits for an earlier one.

    Several environments are locked in order of their names. Two more locks, on secret files and on development values
    while they are written, are held only for a moment, and nothing waits for anything else while holding them.
    """

    ENVIRONMENT = "environment"
    TARGET = "backup target"
    SECRETS = "secrets file"


@dataclass(frozen=True)
class Takes:
    """The locks that a command takes.

    Attributes:
        locks: the locks, in order.
        environments: which environments, in words.
    """

    locks: tuple[Lock, ...] = ()
    environments: str = ""


NOTHING = Takes()
NAMED = Takes((Lock.ENVIRONMENT,), "the one it is about")
EVERY = Takes((Lock.ENVIRONMENT,), "all of them")
TOUCHED = Takes(
    (Lock.ENVIRONMENT, Lock.TARGET, Lock.SECRETS),
    "those in which it pauses or stops containers, reads what is stopped, or restores",
)
LEFT = Takes(
    (Lock.ENVIRONMENT, Lock.TARGET, Lock.SECRETS),
    "those in which a killed backup command has left something to settle",
)
SECRETS = Takes((Lock.SECRETS,))
KEPT = Takes((Lock.ENVIRONMENT, Lock.SECRETS), "the one it is about")

TAKEN: Mapping[str, Takes] = {
    **dict.fromkeys(
        (
            "env.up", "env.down", "env.restart", "env.update", "env.deploy", "env.rollback", "env.recover",
            "env.maintenance", "env.scale", "env.influx.prune", "ci.runner.up",
        ),
        NAMED,
    ),
    **dict.fromkeys(("env.influx.rotate-token", "env.influx.token"), KEPT),
    "images.prune": EVERY,
    **dict.fromkeys(("backup.create", "backup.restore", "backup.undo", "backup.drill"), TOUCHED),
    **dict.fromkeys(("backup.adopt", "backup.prune", "backup.settle", "backup.sync", "backup.verify"), LEFT),
    **dict.fromkeys(
        (
            "secrets.init", "secrets.encrypt", "secrets.set", "secrets.unset", "secrets.edit", "secrets.rotate",
            "secrets.rotate-value", "secrets.recipients.add", "secrets.recipients.remove", "backup.authenticate",
        ),
        SECRETS,
    ),
    **dict.fromkeys(
        (
            # A freeze must be possible during a deploy: it concerns the next one, which reads it under its lock.
            "env.freeze",
            # What these write is atomic, or another program keeps it consistent.
            "env.networks", "images.base", "images.build", "images.push", "images.pull", "images.release",
            "images.login", "images.promote", "images.tag", "images.mirror", "images.save", "images.load",
            "secrets.render", "secrets.declare", "secrets.backup-key", "backup.cron", "backup.recovery-key",
            # The commands that these run take their own locks.
            "ci.run", "ci.dispatch", "ci.rerun", "ci.cancel", "ci.publish", "ci.secrets", "ci.setup",
        ),
        NOTHING,
    ),
}  # fmt: skip
"""The locks of every command that changes something; a command missing here only reads."""


def ordered(names: Iterable[str]) -> list[str]:
    """Return environments in the order in which a command locks several of them."""
    return sorted(set(names))


@contextmanager
def here(call: Invocation, name: str, *, purpose: str = "", wait: float | None = None) -> Iterator[int | None]:
    """Lock an environment against this user's other commands on this machine; a dry run only reads and takes no lock.

    Args:
        purpose: what others are told about the holder; default: the command and this environment.
        wait: seconds to wait; default: `--lock-wait`, or 0 without it.

    Returns:
        A descriptor that holds the lock and may be passed to a child.
    """
    if call.dry_run:
        yield None
        return
    wait = call.patience(0.0) if wait is None else wait
    taking = file_lock(call.stack.project(name), purpose or _purpose(call, name), wait=wait, say=call.output.say)
    with ExitStack() as stack:
        try:
            held = stack.enter_context(taking)
        except Locked as error:
            error.next_command = lock.ADVICE
            raise
        yield held


@contextmanager
def everywhere(
    call: Invocation,
    engine: Engine,
    name: str,
    images: Sequence[str] = (),
    *,
    purpose: str = "",
    wait: float | None = None,
) -> Iterator[Held | None]:
    """Lock an environment against every client of its engine; only for changes, since the lock costs a container.

    Args:
        images: images to make the lock's container from, preferred to those that the environment runs.
    """
    project = call.stack.project(name)
    usable = [*images, *readers(call.stack, engine, project)]
    purpose = purpose or _purpose(call, name)
    wait = call.patience(0.0) if wait is None else wait
    with lock.hold(engine, project, purpose, usable, wait=wait, say=call.output.say) as held:
        yield held


@contextmanager
def locked(
    call: Invocation,
    engine: Engine,
    name: str,
    images: Sequence[str] = (),
    *,
    purpose: str = "",
    wait: float | None = None,
) -> Iterator[Held | None]:
    """Lock an environment both ways, with `here` and `everywhere`; a dry run takes no lock."""
    if call.dry_run:
        yield None
        return
    begun, wait = time.monotonic(), call.patience(0.0) if wait is None else wait
    with here(call, name, purpose=purpose, wait=wait):
        left = max(0.0, wait - (time.monotonic() - begun))
        with everywhere(call, engine, name, images, purpose=purpose, wait=left) as held:
            yield held


@contextmanager
def every(call: Invocation, images: Callable[[Engine], Sequence[str]]) -> Iterator[None]:
    """Lock all environments of the stack.

    Args:
        images: returns the images of an engine from which a lock's container may be made.
    """
    with ExitStack() as held:
        for name in ordered(() if call.dry_run else call.stack.environments):
            engine = Engine(call.stack.environments[name].engine)
            held.enter_context(locked(call, engine, name, images(engine), purpose=f"invoke {call.output.command}"))
        yield


def readers(stack: Stack, engine: Engine, project: str) -> list[str]:
    """Return images for containers that only read: those of the project's containers, then the base images."""
    running = [one.image_id for one in containers.of_project(engine, project)]
    return list(dict.fromkeys([*running, *stack.bases]))


def _purpose(call: Invocation, name: str) -> str:
    return f"invoke {call.output.command} --env {name}"
