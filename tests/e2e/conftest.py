"""Here commands are started as users start them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import warm


@pytest.fixture(autouse=True, scope="package")
def started() -> Iterator[None]:
    """Nothing is forked from a process that has imported everything already."""
    warm.shared.idle = True
    yield
    warm.shared.idle = False
