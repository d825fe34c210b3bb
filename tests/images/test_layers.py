"""What a change of the code costs: layers that differ after a rebuild."""

from __future__ import annotations

import os
import re
import ssl
import subprocess
from pathlib import Path

import pytest

from conche.engine.connection import Engine
from tests.stacks import SmallStack

pytestmark = pytest.mark.engine


def layers(engine: Engine, reference: str) -> list[str]:
    found: list[str] = engine.client.images.get(reference).attrs["RootFS"]["Layers"]
    return found


def build(stack: SmallStack) -> None:
    done = stack.invoke("env.up", "--build")
    assert done.returncode == 0, done.stderr


def test_a_change_of_the_code_changes_one_layer(development: SmallStack, engine: Engine) -> None:
    build(development)
    before = layers(engine, development.image)
    development.replace("src/fastapi-app/app/api.py", '"status": "healthy"', '"status":  "healthy"')

    build(development)

    after = layers(engine, development.image)
    assert len(after) == len(before)
    assert len([1 for old, new in zip(before, after, strict=True) if old != new]) == 1


def test_the_same_tree_gives_the_same_layers(development: SmallStack, engine: Engine) -> None:
    build(development)
    before = layers(engine, development.image)

    build(development)

    assert layers(engine, development.image) == before


def test_the_image_says_what_it_is_and_runs_without_root(development: SmallStack, engine: Engine) -> None:
    build(development)

    config = engine.client.images.get(development.image).attrs["Config"]

    labels = config["Labels"]
    assert config["User"] == "1000:1000"
    assert config["Healthcheck"]["Test"] == ["CMD", "python", "-m", "app.healthcheck"]
    assert {"org.opencontainers.image.revision", "org.opencontainers.image.version"} <= labels.keys()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", labels["org.opencontainers.image.created"])


def test_no_build_secret_is_in_any_layer_or_in_the_history(
    development: SmallStack, tmp_path: Path, canary: str
) -> None:
    marker = canary[:30]
    bundle = tmp_path / "bundle.crt"
    trusted = os.environ.get("SSL_CERT_FILE") or ssl.get_default_verify_paths().cafile
    bundle.write_text((Path(trusted).read_text() if trusted else "") + f"\n# {marker}\n")
    development.replace(
        "docker/fastapi.Dockerfile", "    && python -m compileall", "    && true && python -m compileall"
    )

    built = development.invoke("env.up", "--build", SSL_CERT_FILE=str(bundle), PIP_DEFAULT_TIMEOUT="181")

    assert built.returncode == 0, built.stderr
    saved = tmp_path / "image.tar"
    subprocess.run(["docker", "image", "save", "--output", str(saved), development.image], check=True)
    assert marker not in built.stdout + built.stderr
    assert marker.encode() not in saved.read_bytes()
