"""The engine as the manager of a swarm of one, which it becomes once and is until the tests are over.

An engine that leaves a swarm forgets the names of all containers that run on it (moby, libnetwork/agent.go, on
EventNodeLeave): until they are started again none of them finds another, whichever test they belong to.
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

__all__ = ["joined", "pytest_sessionfinish"]

_used: list[int] = []
"""The descriptor by which this process says that it uses the swarm, to its end."""


@contextlib.contextmanager
def joined(engine: Engine) -> Iterator[Engine]:
    """Within it the engine manages a swarm; those who use it wait for each other."""
    with one_at_a_time("swarm"):
        if not _used:
            _used.append(os.open(_note(), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
            fcntl.flock(_used[0], fcntl.LOCK_SH)
        if not _cluster(engine):
            engine.client.swarm.init(advertise_addr="127.0.0.1")
            # It is left only if it is this one: the next may be the user's own.
            _note().write_text(_cluster(engine), "utf-8")
        yield engine


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Leave the swarm that tests have made, once no other tests on this machine use it."""
    if hasattr(session.config, "workerinput") or not _note().exists():
        return
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
    """The id of the swarm that the engine manages; empty where it manages none."""
    said = engine.client.info().get("Swarm") or {}
    return str((said.get("Cluster") or {}).get("ID", "")) if said.get("ControlAvailable") else ""
