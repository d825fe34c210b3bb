"""From nothing to a promoted image: the registry comes up, an image is released, runs, and becomes production's."""

from __future__ import annotations

import base64
import json
import os
import urllib.request
from pathlib import Path

import pytest

from tests.e2e.factories import commit
from tests.stacks import SmallStack

pytestmark = [pytest.mark.engine, pytest.mark.e2e]


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


def tags(stack: SmallStack, host: str) -> list[str]:
    """As the documented curl asks for them."""
    kept = Path(os.environ["XDG_STATE_HOME"], "conche", stack.name, "git.json")
    values = json.loads(kept.read_text())["values"]
    pair = f"{values['registry_user']}:{values['registry_password']}".encode()
    asked = urllib.request.Request(f"http://{host}/v2/{stack.name}/tags/list")
    asked.add_header("Authorization", f"Basic {base64.b64encode(pair).decode()}")
    with urllib.request.urlopen(asked) as answer:
        found: list[str] = json.load(answer)["tags"]
        return found
