"""What every test stands on: isolation, a canary secret, and small stacks on the real engine."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from conche.engine import images
from conche.engine.connection import Engine
from conche.errors import Unreachable
from conche.images.base import provide
from conche.stack import load
from tests.stacks import SmallStack, free_port, tracked_files

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def isolation(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No colour, no credentials and no settings of whoever runs the tests."""
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
    for name in [name for name in os.environ if name.startswith(("COMPOSE_", "SOPS_", "INFLUXDB_"))]:
        monkeypatch.delenv(name)


@pytest.fixture
def canary() -> str:
    """A secret value that no stream, argv, image or file may hold."""
    return f"canary-{uuid.uuid4().hex}-$x'\""


@pytest.fixture(scope="session")
def engine() -> Engine:
    """The real engine. Without one these tests are skipped on a laptop, and fail in CI."""
    found = Engine()
    try:
        found.client.ping()
    except Unreachable as error:
        if os.environ.get("CI"):
            pytest.fail(f"CI needs an engine: {error.message}")
        pytest.skip(error.message)
    return found


@pytest.fixture(scope="session")
def base_image(engine: Engine) -> str:
    """The base of the small images: what images.base provides for this repository."""
    reference = "python:3.11-slim-bookworm"
    provide(engine, load(ROOT).bases, reference, lambda _: None)
    assert images.find(engine, reference) is not None
    return reference


@pytest.fixture
def small(tmp_path: Path, engine: Engine, base_image: str) -> Iterator[SmallStack]:
    """A stack of one small web service under names of its own; everything it made is removed afterwards."""
    stack = SmallStack.create(tmp_path / "checkout", port=free_port())
    yield stack
    stack.remove_all(engine)


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the files of this repository that git tracks or would track."""
    folder = tmp_path_factory.mktemp("copy") / "chocolate factory"
    for file in tracked_files(ROOT):
        target = folder / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / file, target)
    return folder
