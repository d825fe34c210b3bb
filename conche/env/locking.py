"""Holding an environment: against this machine's commands by the kernel, against everybody's by its engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from conche.command import Invocation
from conche.engine import containers, kept, lock, state
from conche.engine.connection import Engine
from conche.engine.lock import Held
from conche.env.deploy.signing import newest
from conche.files import lock as file_lock
from conche.stack import Stack

__all__ = ["everywhere", "here", "locked", "readers"]


@contextmanager
def here(call: Invocation, name: str, wait: float = 0.0) -> Iterator[int | None]:
    """Against other commands of this user on this machine; a dry run only looks, and needs no lock.

    Returns:
        A descriptor that holds the lock, which a child may be given.
    """
    if call.dry_run:
        yield None
        return
    with file_lock(call.stack.project(name), _purpose(call, name), wait=wait) as held:
        yield held


@contextmanager
def everywhere(
    call: Invocation, engine: Engine, name: str, images: Sequence[str] = (), wait: float = 0.0
) -> Iterator[Held | None]:
    """Against every client of the engine; it costs a container, so only what changes something takes it.

    Args:
        images: images from which the lock's container may be made, before those that the environment runs.

    Raises:
        Locked: somebody holds it.
        WrittenByNewer: a later version keeps something of the environment that this one cannot know.
    """
    project = call.stack.project(name)
    usable = [*images, *readers(call.stack, engine, project)]
    with lock.hold(engine, project, _purpose(call, name), usable, wait=wait, say=call.output.say) as held:
        _require_known(engine, project, usable)
        yield held


def _require_known(engine: Engine, project: str, usable: Sequence[str]) -> None:
    """See that all that is kept of an environment may be changed."""
    kept.require_known(engine, project)
    problem = newest(state.State(engine, project, usable).read())
    if problem is not None:
        raise problem


@contextmanager
def locked(
    call: Invocation, engine: Engine, name: str, images: Sequence[str] = (), wait: float = 0.0
) -> Iterator[Held | None]:
    """Both; nothing for a dry run."""
    if call.dry_run:
        yield None
        return
    with here(call, name, wait), everywhere(call, engine, name, images, wait) as held:
        yield held


def readers(stack: Stack, engine: Engine, project: str) -> list[str]:
    """Images that the engine has, for containers that only read: those that run, then the bases."""
    running = [one.image_id for one in containers.of_project(engine, project)]
    return list(dict.fromkeys([*running, *stack.bases]))


def _purpose(call: Invocation, name: str) -> str:
    return f"invoke {call.output.command} --env {name}"
