"""Make the engine the manager of a swarm of one, once, until the tests are over.

An engine that leaves a swarm forgets the names of all containers that run on it (moby, libnetwork/agent.go, on
EventNodeLeave): until they are restarted they cannot find each other, whichever test they belong to.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from conche.engine.connection import Engine
from conche.errors import ConcheError
from tests.isolation import one_at_a_time

__all__ = ["joined", "pytest_sessionfinish", "use_engine"]

_used: list[int] = []
"""The descriptor whose lock shows, until this process ends, that its tests use the engine."""


def use_engine() -> None:
    """Have no other tests on this machine leave the swarm before this process ends."""
    if not _used:
        _used.append(os.open(_note(), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        fcntl.flock(_used[0], fcntl.LOCK_SH)


@contextlib.contextmanager
def joined(engine: Engine) -> Iterator[Engine]:
    """Have the engine manage a swarm for this block; its users wait for each other."""
    with one_at_a_time("swarm"):
        use_engine()
        if not _cluster(engine):
            engine.client.swarm.init(advertise_addr="127.0.0.1")
            # Only this swarm is left afterwards: another one may be the user's own.
            _note().write_text(_cluster(engine), "utf-8")
        yield engine


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Leave the swarm that tests have made once no other tests on this machine use the engine."""
    if hasattr(session.config, "workerinput") or not _note().exists():
        return
    if not _used:  # a second descriptor would wait for the lock of the first
        _used.append(os.open(_note(), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW))
    with contextlib.suppress(BlockingIOError, ConcheError):
        fcntl.flock(_used[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
        engine = Engine()
        if _cluster(engine) == _note().read_text("utf-8") != "":
            engine.client.swarm.leave(force=True)
        _note().unlink()


def _note() -> Path:
    return Path(tempfile.gettempdir()) / f"conche-tests-{os.getuid()}-swarm.joined"


def _cluster(engine: Engine) -> str:
    """Return the id of the swarm that the engine manages; empty if it manages none."""
    said = engine.client.info().get("Swarm") or {}
    return str((said.get("Cluster") or {}).get("ID", "")) if said.get("ControlAvailable") else ""
