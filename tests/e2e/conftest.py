"""Here commands are started as users start them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from conche.engine.connection import Engine
from tests import warm
from tests.e2e.factories import copied
from tests.stacks import SmallStack


@pytest.fixture(autouse=True, scope="module")
def started() -> Iterator[None]:
    """Nothing is forked from a process that has imported everything already.

    For a module: `package` would be the whole session, since these folders are no packages.
    """
    warm.shared.idle = True
    yield
    warm.shared.idle = False


@pytest.fixture
def factory(tmp_path: Path, engine: Engine, base_image: str) -> Iterator[tuple[SmallStack, str]]:
    """A copy of the checkout, committed, under names and ports of its own; and its registry's host."""
    stack, host = copied(tmp_path / "factory")
    yield stack, host
    stack.remove_all(engine)
