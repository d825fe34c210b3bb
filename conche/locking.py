"""Which locks a command takes, in which order, and how it takes those of environments.

An environment is locked twice: against this user's commands on this machine by the kernel, and against everybody's by
its engine.
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
    """What commands lock, in the order in which they take it: whoever holds one never waits for an earlier one.

    Environments among themselves are taken by name. Two more locks, of secret files and of development values that are
    being written, are held for a moment; nothing is waited for inside them.
    """

    ENVIRONMENT = "environment"
    TARGET = "backup target"
    SECRETS = "secrets file"


@dataclass(frozen=True)
class Takes:
    """The locks that a command takes.

    Attributes:
        locks: in their order.
        environments: which environments, in words.
    """

    locks: tuple[Lock, ...] = ()
    environments: str = ""


NOTHING = Takes()
NAMED = Takes((Lock.ENVIRONMENT,), "the one it is about")
EVERY = Takes((Lock.ENVIRONMENT,), "all of them")
TOUCHED = Takes(
    (Lock.ENVIRONMENT, Lock.TARGET), "those in which it pauses or stops containers, reads what is stopped, or restores"
)
LEFT = Takes((Lock.ENVIRONMENT, Lock.TARGET), "those in which a killed backup command has left something to settle")
SECRETS = Takes((Lock.SECRETS,))

TAKEN: Mapping[str, Takes] = {
    **dict.fromkeys(
        (
            "env.up", "env.down", "env.restart", "env.update", "env.deploy", "env.rollback", "env.recover",
            "env.maintenance", "env.scale", "env.influx.prune", "ci.runner.up",
        ),
        NAMED,
    ),
    "images.prune": EVERY,
    **dict.fromkeys(("backup.create", "backup.restore", "backup.drill"), TOUCHED),
    **dict.fromkeys(("backup.prune", "backup.settle", "backup.sync", "backup.verify"), LEFT),
    **dict.fromkeys(
        (
            "secrets.init", "secrets.encrypt", "secrets.set", "secrets.unset", "secrets.edit", "secrets.rotate",
            "secrets.rotate-value", "secrets.recipients.add", "secrets.recipients.remove",
        ),
        SECRETS,
    ),
    **dict.fromkeys(
        (
            # A freeze has to be possible while something is deployed: it is for what comes next.
            "env.freeze",
            # What these make or change is whole by itself, or somebody else's program keeps it so.
            "env.networks", "images.base", "images.build", "images.push", "images.pull", "images.release",
            "images.login", "images.promote", "images.tag", "images.mirror", "images.save", "images.load",
            "secrets.render", "secrets.declare", "secrets.backup-key", "backup.cron", "backup.recovery-key",
            # Each command that these run takes its own.
            "ci.run", "ci.dispatch", "ci.rerun", "ci.cancel", "ci.secrets", "ci.setup",
        ),
        NOTHING,
    ),
}  # fmt: skip
"""What each command that changes something takes; one that is not here only looks."""


def ordered(names: Iterable[str]) -> list[str]:
    """Environments in the order in which a command that holds several takes them."""
    return sorted(set(names))


@contextmanager
def here(call: Invocation, name: str, *, purpose: str = "", wait: float | None = None) -> Iterator[int | None]:
    """Against other commands of this user on this machine; a dry run only looks, and needs no lock.

    Args:
        purpose: what others are told; default: the command, for this environment.
        wait: seconds; default: what `--lock-wait` says, else none.

    Returns:
        A descriptor that holds the lock, which a child may be given.
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
    """Against every client of the engine; it costs a container, so only what changes something takes it.

    Args:
        images: images from which the lock's container may be made, before those that the environment runs.
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
    """Both; nothing for a dry run."""
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
    """All environments of the stack.

    Args:
        images: those of an engine from which a lock's container may be made.
    """
    with ExitStack() as held:
        for name in ordered(() if call.dry_run else call.stack.environments):
            engine = Engine(call.stack.environments[name].engine)
            held.enter_context(locked(call, engine, name, images(engine), purpose=f"invoke {call.output.command}"))
        yield


def readers(stack: Stack, engine: Engine, project: str) -> list[str]:
    """Images that the engine has, for containers that only read: those that run, then the bases."""
    running = [one.image_id for one in containers.of_project(engine, project)]
    return list(dict.fromkeys([*running, *stack.bases]))


def _purpose(call: Invocation, name: str) -> str:
    return f"invoke {call.output.command} --env {name}"
