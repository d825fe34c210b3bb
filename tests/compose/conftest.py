"""A place for one Compose file after another."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from conche.engine.connection import Engine
from tests.compose.trial import Trial


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, engine: Engine, base_image: str) -> Trial:
    return Trial.create(tmp_path_factory.mktemp("compose") / "checkout", engine)


@pytest.fixture
def trial(place: Trial) -> Iterator[Trial]:
    """The same; whatever is left is removed."""
    yield place
    place.remove()
