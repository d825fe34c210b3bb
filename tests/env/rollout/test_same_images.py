"""A build that only has another revision is no other image: what runs from its like is left alone."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from conche.engine.connection import Engine
from tests.edged import EdgedStack
from tests.stacks import SmallStack

pytestmark = pytest.mark.engine

DOCKERFILE = """\
FROM python:3.11-slim-bookworm
COPY kept /kept
ENV KIND={kind}
CMD ["python3", "-m", "http.server", "{port}"]
"""


def build(stack: SmallStack, reference: str, revision: str, *, kind: str = "store", port: int = 9000) -> None:
    """Build an image under a reference, as of a revision."""
    stack.write("store/Dockerfile", DOCKERFILE.format(kind=kind, port=port))
    stack.write("store/kept", "the same in each")
    label = f"org.opencontainers.image.revision={revision}"
    argv = ["docker", "build", "--quiet", "--label", label, "--tag", reference, str(stack.folder / "store")]
    subprocess.run(argv, check=True, capture_output=True)


def store(engine: Engine, name: str) -> tuple[str, str]:
    seen = engine.client.api.inspect_container(name)
    return seen["Id"], seen["State"]["StartedAt"]


def strategies(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    assert done.returncode == 0, done.stderr
    return {one["service"]: one["strategy"] for one in json.loads(done.stdout)["value"]["changes"]}


def test_a_release_leaves_a_service_alone_whose_image_only_has_another_revision(
    fresh: EdgedStack, engine: Engine
) -> None:
    reference = f"localhost:5000/{fresh.name}-store:production"
    fresh.replace("compose/prod.yaml", "image: python:3.11-slim-bookworm", f"image: {reference}")
    declared = f"repository: {fresh.name}}}\n"
    more = f"  store: {{dockerfile: store/Dockerfile, context: store, repository: {fresh.name}-store}}\n"
    fresh.replace("stack.yaml", declared, declared + more)
    words = ("env.deploy", "--env", "prod", "--local", "--json")
    for version in ("one", "two"):
        fresh.version(version)
        subprocess.run(
            ["docker", "tag", fresh.reference(version), f"localhost:5000/{fresh.name}:{version}"], check=True
        )
    build(fresh, reference, "one")
    first = fresh.invoke(*words, "--image", fresh.version("one"))
    assert first.returncode == 0, first.stderr
    before = store(engine, f"{fresh.name}-store")

    build(fresh, reference, "two")
    relabelled = fresh.invoke(*words, "--image", fresh.version("one"))
    beside = fresh.invoke(*words, "--image", fresh.version("two"))
    status = fresh.invoke("env.status", "--env", "prod")
    up = fresh.invoke("env.up", "--env", "prod")
    back = fresh.rollback("--json")
    kept = store(engine, f"{fresh.name}-store")
    build(fresh, reference, "three", kind="other")
    changed = fresh.invoke(*words, "--image", fresh.version("one"))

    assert strategies(relabelled) == {"edge": "keep", "store": "keep", "web": "keep"}
    assert strategies(beside) == {"edge": "keep", "store": "keep", "web": "beside"}
    assert status.returncode == 0, status.stdout
    assert "Nothing to do" in up.stdout
    assert strategies(back) == {"edge": "keep", "store": "keep", "web": "beside"}
    assert kept == before
    assert strategies(changed) == {"edge": "keep", "store": "recreate", "web": "beside"}
    assert store(engine, f"{fresh.name}-store") != before


@pytest.mark.parametrize("changed", [{"kind": "other"}, pytest.param({"port": 9001}, marks=pytest.mark.long), {}])
def test_env_up_replaces_what_has_another_image_and_leaves_what_only_has_another_revision(
    small: SmallStack, engine: Engine, changed: dict[str, Any]
) -> None:
    reference = f"localhost:5000/{small.name}-store:develop"
    body = f"  store:\n    image: {reference}\n    container_name: {small.name}-store\n    init: true\n"
    small.replace("compose/dev.yaml", "volumes:\n  kept:", f"{body}volumes:\n  kept:")
    build(small, reference, "one")
    small.up()
    before = store(engine, f"{small.name}-store")

    build(small, reference, "two", **changed)
    status = small.json("env.status", "--env", "dev")
    small.up()

    drift = {one["service"]: one["drift"] for one in status["value"][0]["services"]}
    assert drift == {"store": "its image changed" if changed else "", "web": ""}
    assert (store(engine, f"{small.name}-store") == before) is not bool(changed)
