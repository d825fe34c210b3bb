"""A registry of our own, and stacks that use it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conche.engine.connection import Engine
from conche.stack import load
from conche.supply.base import provide
from tests.images.registries import PrivateRegistry, Shop, serving
from tests.isolation import one_at_a_time
from tests.stacks import ROOT

REGISTRY_IMAGE = "registry:2.8"


@pytest.fixture(scope="session")
def registry_image(engine: Engine) -> str:
    """Debian's registry, made as the git environment makes it where it cannot be pulled."""
    with one_at_a_time("images"):
        provide(engine, load(ROOT).bases, REGISTRY_IMAGE, lambda _: None)
    return REGISTRY_IMAGE


@pytest.fixture(scope="session")
def shared_registry(
    engine: Engine, registry_image: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PrivateRegistry]:
    with serving(engine, registry_image, tmp_path_factory.mktemp("registry")) as registry:
        yield registry


@pytest.fixture
def registry(shared_registry: PrivateRegistry) -> Iterator[PrivateRegistry]:
    """A registry that runs, behind a wire that does nothing yet."""
    shared_registry.wire.reset()
    yield shared_registry
    shared_registry.wire.reset()


@pytest.fixture
def shop(tmp_path: Path, engine: Engine, base_image: str, registry: PrivateRegistry) -> Iterator[Shop]:
    """A stack whose images go to the registry; everything it made is removed afterwards."""
    shop = Shop.open(tmp_path / "shop", registry, Path(os.environ["XDG_STATE_HOME"]))
    yield shop
    shop.remove_all(engine)


@pytest.fixture
def argv_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """Every command line of the docker CLI from now on: a program in front of it writes them down."""
    docker = shutil.which("docker")
    assert docker is not None
    log, folder = tmp_path / "argv.log", tmp_path / "in-front"
    folder.mkdir()
    wrapper = folder / "docker"
    wrapper.write_text(f'#!/bin/sh\necho "docker $*" >>"{log}"\nexec "{docker}" "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join((str(folder), os.environ["PATH"])))
    return log.read_text


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    folder = tmp_path / "small-disk"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"only root can make a small file system: {made.stderr}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
