"""From nothing to a promoted image: the registry comes up, an image is released, runs, and becomes production's."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from conche.engine.connection import Engine
from tests.stacks import ROOT, SmallStack, free_port, tracked_files

pytestmark = [pytest.mark.engine, pytest.mark.e2e]


@pytest.fixture
def factory(tmp_path: Path, engine: Engine, base_image: str) -> Iterator[tuple[SmallStack, str]]:
    """A copy of the checkout, committed, under names and ports of its own; and its registry's host."""
    host = f"localhost:{free_port()}"
    stack = SmallStack(tmp_path / "factory", f"t{uuid.uuid4().hex[:10]}", free_port())
    for tracked in tracked_files(ROOT):
        (stack.folder / tracked).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / tracked, stack.folder / tracked)
    ours = {
        "localhost:5000": host,
        "port: 5000": f"port: {host.rpartition(':')[2]}",
        "8001": str(stack.port),
        "chocolate-factory": stack.name,
        "chocolate_factory": stack.name,
    }
    for file in ("stack.yaml", *(str(path.relative_to(ROOT)) for path in (ROOT / "compose").glob("*.yaml"))):
        # All in one pass: what is put in for one may hold the digits of another.
        text = (stack.folder / file).read_text()
        stack.write(file, re.sub("|".join(ours), lambda found: ours[found[0]], text))
    # Forgejo's image comes from its own registry, which may be out of reach, and is not what is asked for here.
    git = yaml.safe_load((stack.folder / "compose/git.yaml").read_text())
    git["services"] = {"registry": git["services"]["registry"]}
    stack.write("compose/git.yaml", yaml.safe_dump(git))
    # Of a tree that was never built: a cache that has a step twice takes the one or the other for an old tree.
    stack.write("src/fastapi-app/app/marker.py", f"# {stack.name}\n")
    subprocess.run(["git", "init", "--quiet"], cwd=stack.folder, check=True)
    commit(stack)
    yield stack, host
    stack.remove_all(engine)


def test_an_image_goes_from_a_commit_to_production(factory: tuple[SmallStack, str]) -> None:
    stack, host = factory

    up = stack.invoke("env.up", "--env", "git")
    again = stack.invoke("env.up", "--env", "git")
    released = stack.invoke("images.release", "--env", "dev")
    ran = stack.invoke("env.up", "--env", "dev")
    promoted = stack.invoke("images.promote", "--from", "dev", "--to", "prod")
    shown = stack.invoke("images.prune", "--dry-run")

    for done in (up, again, released, ran, promoted, shown):
        assert done.returncode == 0, done.stderr
    assert "Nothing to do" in again.stdout
    digests = {one["tag"]: one["digest"] for one in stack.json("images.list")["value"]}
    assert released.stdout.strip() == f"{host}/{stack.name}@{digests['develop']}"
    assert digests["production"] == digests["develop"]
    assert "Nothing to do." in shown.stdout
    assert set(tags(stack, host)) == set(digests)

    stack.replace("src/fastapi-app/app/api.py", '"status": "healthy"', '"status":  "healthy"')
    commit(stack)
    second = stack.json("images.release")["value"]

    assert (second["layers_moved"], second["layers_there"]) == (1, 4)


def commit(stack: SmallStack) -> None:
    identity = ["-c", "user.name=n", "-c", "user.email=e@x", "-c", "commit.gpgsign=false"]
    for words in (["add", "--all"], [*identity, "commit", "--quiet", "--message", "a change"]):
        subprocess.run(["git", *words], cwd=stack.folder, check=True)


def tags(stack: SmallStack, host: str) -> list[str]:
    """As the documented curl asks for them."""
    kept = Path(os.environ["XDG_STATE_HOME"], "conche", stack.name, "git.json")
    values = json.loads(kept.read_text())
    pair = f"{values['registry_user']}:{values['registry_password']}".encode()
    asked = urllib.request.Request(f"http://{host}/v2/{stack.name}/tags/list")
    asked.add_header("Authorization", f"Basic {base64.b64encode(pair).decode()}")
    with urllib.request.urlopen(asked) as answer:
        found: list[str] = json.load(answer)["tags"]
        return found
