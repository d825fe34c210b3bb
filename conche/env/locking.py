"""Locks an environment for a change, and refuses one that holds something written by a later version."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from conche import locking
from conche.command import Invocation
from conche.engine import kept, state
from conche.engine.connection import Engine
from conche.engine.lock import Held
from conche.locking import here
from conche.release.signing import newest

__all__ = ["everywhere", "here", "locked"]


@contextmanager
def everywhere(call: Invocation, engine: Engine, name: str, images: Sequence[str] = ()) -> Iterator[Held | None]:
    """Lock as `conche.locking.everywhere` does, and see that this version knows all that is kept.

    Raises:
        Locked: somebody holds the lock.
        WrittenByNewer: a later version has kept something of the environment that this one does not know.
    """
    with locking.everywhere(call, engine, name, images) as held:
        _require_known(call, engine, name, images)
        yield held


@contextmanager
def locked(call: Invocation, engine: Engine, name: str, images: Sequence[str] = ()) -> Iterator[Held | None]:
    """Lock as `conche.locking.locked` does; except in a dry run, check what `everywhere` checks."""
    with locking.locked(call, engine, name, images) as held:
        if not call.dry_run:
            _require_known(call, engine, name, images)
        yield held


def _require_known(call: Invocation, engine: Engine, name: str, images: Sequence[str]) -> None:
    """Raise if a later version has written anything that is kept of an environment."""
    project = call.stack.project(name)
    kept.require_known(engine, project)
    usable = [*images, *locking.readers(call.stack, engine, project)]
    problem = newest(state.State(engine, project, usable).read())
    if problem is not None:
        raise problem
