"""What a change of the code costs: layers that differ after a rebuild."""

from __future__ import annotations

import json
import re
import subprocess

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
    development: SmallStack, engine: Engine, canary: str
) -> None:
    index = f"http://user:{canary[:20]}@127.0.0.1:1/simple"
    development.replace("src/fastapi-app/requirements.lock", "annotated-", "# changed, so that pip runs\nannotated-")

    failed = development.invoke("env.up", "--build", PIP_INDEX_URL=index)
    shown = subprocess.run(
        ["docker", "history", "--no-trunc", "--format", "{{json .}}", development.image],
        capture_output=True,
        text=True,
        check=True,
    )

    assert failed.returncode == 2
    assert canary[:20] not in failed.stdout + failed.stderr
    assert canary[:20] not in shown.stdout
    assert [json.loads(line) for line in shown.stdout.splitlines()]
