"""Fixtures for every test: isolation, a canary secret, and small stacks on the real engine."""

from __future__ import annotations

import gc
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from conche.engine import images
from conche.engine.connection import Engine
from conche.errors import Unreachable
from conche.stack import load
from conche.supply.base import provide
from tests.edged import IMAGES, EdgedStack
from tests.guard import pytest_runtest_protocol
from tests.isolation import IN_CI, isolate, one_at_a_time
from tests.scheduling import pytest_report_to_serializable, pytest_xdist_make_scheduler
from tests.selection import (
    pytest_addoption,
    pytest_collection_modifyitems,
    pytest_ignore_collect,
    pytest_runtest_makereport,
)
from tests.stacks import ROOT, SmallStack, free_port, tracked_files
from tests.swarming import pytest_sessionfinish, use_engine

__all__ = [
    "pytest_addoption",
    "pytest_collection_modifyitems",
    "pytest_ignore_collect",
    "pytest_report_to_serializable",
    "pytest_runtest_makereport",
    "pytest_runtest_protocol",
    "pytest_sessionfinish",
    "pytest_xdist_make_scheduler",
]

isolate(os.environ, ROOT)

# No deadline: an example's duration only shows how busy the machine is. In CI, failures must be reproducible.
settings.register_profile(
    "conche",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=IN_CI,
)
settings.register_profile("long", settings.get_profile("conche"), derandomize=False, max_examples=500)
settings.load_profile("conche")


def pytest_collection_finish() -> None:
    """Leave what was collected out of every later search for garbage: it lives until the end."""
    gc.freeze()


@pytest.fixture(scope="session")
def unused() -> list[Path]:
    """Folders that tests were given and have not touched; to make and remove one takes as long as many a test."""
    return []


@pytest.fixture(autouse=True)
def isolation(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
    unused: list[Path],
) -> Iterator[None]:
    """Turn colour off and give each test folders of its own; the rest of the environment is cleared once, for all."""
    places = [unused.pop() if unused else tmp_path_factory.mktemp("isolated") for _ in range(2)]
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(places[0]))
    monkeypatch.setenv("XDG_STATE_HOME", str(places[1]))
    yield
    # What another test has started may write there later.
    if request.node.get_closest_marker("unit"):
        unused.extend(place for place in places if untouched(place))


def untouched(folder: Path) -> bool:
    """Return whether a folder is as `mktemp` makes it."""
    return folder.is_dir() and stat.S_IMODE(folder.stat().st_mode) == 0o700 and not any(folder.iterdir())


@pytest.fixture
def canary() -> str:
    """A secret value that no stream, argv, image or file may hold."""
    return f"canary-{uuid.uuid4().hex}-$x'\""


@pytest.fixture(scope="session")
def engine() -> Engine:
    """The real engine. Without one these tests are skipped, but not in CI."""
    found = Engine()
    try:
        found.client.ping()
    except Unreachable as error:
        pytest.skip(error.message)
    use_engine()
    return found


@pytest.fixture(scope="session")
def base_image(engine: Engine) -> str:
    """The base of the small images, as images.base provides it for this repository."""
    reference = "python:3.11-slim-bookworm"
    with one_at_a_time("images"):
        provide(engine, load(ROOT).bases, reference, lambda _: None)
    assert images.find(engine, reference) is not None
    return reference


@pytest.fixture(scope="session")
def edge_image(engine: Engine, base_image: str) -> Iterator[str]:
    """The edge's image; the versions that were built to run behind it are removed afterwards."""
    reference = "nginx:1.27"
    with one_at_a_time("images"):
        provide(engine, load(ROOT).bases, reference, lambda _: None)
    yield reference
    for image in engine.client.api.images(name=IMAGES):
        for tag in image["RepoTags"] or []:
            if tag.endswith(f"-{os.getpid()}"):
                engine.client.api.remove_image(tag, force=True)


@pytest.fixture(scope="module")
def edged(tmp_path_factory: pytest.TempPathFactory, engine: Engine, edge_image: str) -> Iterator[EdgedStack]:
    """A stack behind an edge, shared by a module; everything it made is removed afterwards."""
    stack = EdgedStack.create(tmp_path_factory.mktemp("edged") / "checkout", port=free_port())
    yield stack
    stack.remove_all(engine)


@pytest.fixture
def fresh(tmp_path: Path, engine: Engine, edge_image: str) -> Iterator[EdgedStack]:
    """A stack behind an edge, for one test only."""
    stack = EdgedStack.create(tmp_path / "checkout", port=free_port())
    yield stack
    stack.remove_all(engine)


@pytest.fixture
def small(tmp_path: Path, engine: Engine, base_image: str) -> Iterator[SmallStack]:
    """A stack of one small web service under names of its own; everything it made is removed afterwards."""
    stack = SmallStack.create(tmp_path / "checkout", port=free_port())
    yield stack
    stack.remove_all(engine)


@pytest.fixture(scope="module")
def development(tmp_path_factory: pytest.TempPathFactory, engine: Engine, base_image: str) -> Iterator[SmallStack]:
    """A copy of the checkout, renamed, in a folder with spaces; everything it made is removed afterwards."""
    folder = tmp_path_factory.mktemp("copy") / "my chocolate factory"
    stack = SmallStack(folder, f"t{uuid.uuid4().hex[:10]}", free_port())
    for tracked in tracked_files(ROOT):
        (folder / tracked).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / tracked, folder / tracked)
    for file in ("stack.yaml", "compose/dev.yaml"):
        # Replace the port first: the stack's own name may contain these digits.
        text = (folder / file).read_text().replace("8001", str(stack.port))
        stack.write(file, text.replace("chocolate-factory", stack.name))
    yield stack
    stack.remove_all(engine)
