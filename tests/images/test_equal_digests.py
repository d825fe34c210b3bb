"""Where the engine can write files' times anew, two builds of one tree have one digest."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from conche.engine import images
from conche.engine.connection import Engine
from tests.images.newer import newer
from tests.images.registries import Shop

pytestmark = pytest.mark.engine

DOCKERFILE = """\
FROM python:3.11-slim-bookworm AS dependencies
RUN --network=none python3 -m venv --without-pip /opt/venv && cp -r /etc/ssl /opt/venv/ssl
FROM python:3.11-slim-bookworm
COPY --from=dependencies /opt/venv /opt/venv
RUN --network=none install --directory --owner=1000 /models
COPY server.py /srv/server.py
"""


@pytest.fixture(scope="module")
def new_engine(base_image: str) -> Iterator[Engine]:
    """Engine 26 or later with containerd's image store, which has the base image."""
    # A socket's path has at most 107 characters.
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder, newer(Path(folder)) as engine:
        archive = Path(folder, "base.tar")
        subprocess.run(["docker", "image", "save", "--output", str(archive), base_image], check=True)
        loading = ["docker", "--host", engine.address, "image", "load", "--input", str(archive)]
        subprocess.run(loading, check=True, capture_output=True)
        yield engine


def test_two_builds_without_cache_have_equal_digests(shop: Shop, new_engine: Engine) -> None:
    shop.write("docker/web.Dockerfile", DOCKERFILE)
    shop.commit("venv")
    found = []
    for _ in range(2):
        # As in two checkouts: their files are newer than the commit. What is older keeps its time.
        for file in (shop.folder / "docker").iterdir():
            os.utime(file)
        done = shop.invoke("images.build", "--no-cache", DOCKER_HOST=new_engine.address)
        assert done.returncode == 0, done.stderr
        found.append(images.find(new_engine, shop.image))

    first, second = found
    assert first is not None
    assert second is not None
    assert first.layers == second.layers
    assert first.id == second.id


def test_inspect_says_what_an_engine_can(shop: Shop, engine: Engine, new_engine: Engine) -> None:
    assert images.normalises(new_engine)[0]
    can, said = images.normalises(engine)

    assert ("containerd" in said) >= can
