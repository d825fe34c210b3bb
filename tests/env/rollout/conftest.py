"""An engine that manages a swarm."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from conche.engine.connection import Engine
from tests.swarming import joined


@pytest.fixture(scope="module")
def swarming(engine: Engine) -> Iterator[Engine]:
    """The engine, as the manager of a swarm of one."""
    with joined(engine):
        yield engine
