"""Reads folders of containers through their engine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from conche.backup.inflate import Forward, Refuses
from conche.backup.members import Members
from conche.engine import volumes
from conche.engine.connection import Engine
from conche.errors import Unreachable

__all__ = ["copied"]


@contextlib.contextmanager
def copied(engine: Engine, container_id: str, path: str) -> Iterator[Members]:
    """Open a file or folder of a container, running or not, as the engine itself copies it.

    Raises:
        NotFound: there is no such path.
        Unreachable: the engine has sent less than all of it.
    """
    with volumes.opened(engine, container_id, path) as stream, whole(path):
        members = Members(Forward(stream))
        yield members
        if members.cut:
            raise Refuses("it is cut off")


@contextlib.contextmanager
def whole(path: str) -> Iterator[None]:
    """Turn what is wrong with a stream into the error that says so."""
    try:
        yield
    except Refuses as error:
        raise Unreachable(
            "engine-stream-broken", f"The engine's copy of {path} was cut short.", evidence=[str(error)]
        ) from error
