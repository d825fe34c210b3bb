"""An engine that manages a swarm."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from conche.engine.connection import Engine
from tests.isolation import one_at_a_time


@pytest.fixture(scope="module")
def swarming(engine: Engine) -> Iterator[Engine]:
    """The engine, as the manager of a swarm of one; it leaves it afterwards if it was in none before."""
    with one_at_a_time("swarm"):
        yield from _joined(engine)


def _joined(engine: Engine) -> Iterator[Engine]:
    was = (engine.client.info().get("Swarm") or {}).get("ControlAvailable")
    if not was:
        engine.client.swarm.init(advertise_addr="127.0.0.1")
    yield engine
    if not was:
        engine.client.swarm.leave(force=True)
