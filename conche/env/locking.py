"""Locking an environment in order to change it: nothing that a later version keeps there is changed unknown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from conche import locking
from conche.command import Invocation
from conche.engine import kept, state
from conche.engine.connection import Engine
from conche.engine.lock import Held
from conche.env.deploy.signing import newest
from conche.locking import here

__all__ = ["everywhere", "here", "locked"]


@contextmanager
def everywhere(call: Invocation, engine: Engine, name: str, images: Sequence[str] = ()) -> Iterator[Held | None]:
    """As `locking.everywhere`.

    Raises:
        Locked: somebody holds it.
        WrittenByNewer: a later version keeps something of the environment that this one cannot know.
    """
    with locking.everywhere(call, engine, name, images) as held:
        _require_known(call, engine, name, images)
        yield held


@contextmanager
def locked(call: Invocation, engine: Engine, name: str, images: Sequence[str] = ()) -> Iterator[Held | None]:
    """As `locking.locked`; it raises what `everywhere` does."""
    with locking.locked(call, engine, name, images) as held:
        if not call.dry_run:
            _require_known(call, engine, name, images)
        yield held


def _require_known(call: Invocation, engine: Engine, name: str, images: Sequence[str]) -> None:
    """See that all that is kept of an environment may be changed."""
    project = call.stack.project(name)
    kept.require_known(engine, project)
    usable = [*images, *locking.readers(call.stack, engine, project)]
    problem = newest(state.State(engine, project, usable).read())
    if problem is not None:
        raise problem
