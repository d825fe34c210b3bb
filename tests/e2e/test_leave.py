"""docs/how-to/leave.md, followed word by word on a stack with releases, an edge, secrets and backups."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conche.engine import swarm
from conche.engine.connection import Engine
from tests.edged import EdgedStack
from tests.stacks import ROOT, free_port
from tests.swarming import joined

pytestmark = [pytest.mark.engine, pytest.mark.e2e]

SECTIONS = """\
secrets: {{declared: {{setting: {{}}}}}}
backup:
  components:
    pages: {{driver: archive, paths: [docker]}}
    data: {{driver: volume, volume: {name}-data, environment: prod, consistency: stop}}
"""
"""A volume's containers are stopped, as a rootless engine may be unable to pause any: this test runs on one, too."""

KEPT = "data that outlives every tool"


def blocks(heading: str, language: str) -> list[str]:
    """The fenced blocks below a heading of the guide."""
    guide = (ROOT / "docs/how-to/leave.md").read_text()
    [section] = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", guide, re.MULTILINE | re.DOTALL)
    return re.findall(rf"^```{language}\n(.*?)^```", section, re.MULTILINE | re.DOTALL)


def run_for_a_while(folder: Path) -> EdgedStack:
    """A stack that is to have two releases, a secret, and data in a volume."""
    stack = EdgedStack.create(folder, free_port())
    stack.replace("stack.yaml", "environments:\n", SECTIONS.format(name=stack.name) + "environments:\n")
    stack.replace("compose/prod.yaml", "    init: true\n", "    init: true\n    volumes: ['data:/data']\n")
    stack.replace("compose/prod.yaml", "volumes:\n", f"volumes:\n  data: {{name: {stack.name}-data}}\n")
    return stack


def remove(stack: EdgedStack, engine: Engine) -> None:
    subprocess.run(["docker", "compose", "--project-name", stack.project, "down", "--volumes"], check=False)
    subprocess.run(["docker", "image", "rm", f"{stack.name}-web:kept"], check=False, capture_output=True)
    stack.remove_all(engine)


@pytest.fixture
def guestbook(tmp_path: Path, engine: Engine, edge_image: str) -> Iterator[EdgedStack]:
    """A stack on the engine."""
    stack = run_for_a_while(tmp_path / "guestbook")
    yield stack
    remove(stack, engine)


@pytest.fixture
def on_swarm(tmp_path: Path, engine: Engine, edge_image: str) -> Iterator[EdgedStack]:
    """A stack on a swarm of one."""
    with joined(engine):
        stack = run_for_a_while(tmp_path / "guestbook")
        stack.replace("stack.yaml", "    deploy:\n", "    engine: swarm\n    deploy:\n")
        stack.replace("compose/prod.yaml", f"    container_name: {stack.name}-store\n", "")
        yield stack
        remove(stack, engine)
        swarm.remove(engine, stack.project)
        assert swarm.wait_gone(engine, stack.project, 300)
        swarm.sweep(engine, stack.project, frozenset())


def follow(stack: EdgedStack, script: str) -> str:
    """Type a block of the guide into a shell, with this test's own name and port; what it says."""
    named = script.replace("8090", str(stack.port)).replace("guestbook", stack.name)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", named], cwd=stack.folder, env=stack.environment(PATH=path),
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{named}{done.stdout}{done.stderr}"
    return done.stdout


def typed(stack: EdgedStack, heading: str) -> str:
    return "".join(follow(stack, block) for block in blocks(heading, "sh"))


def live(stack: EdgedStack, engine: Engine) -> None:
    """Make the releases and the data that are to be kept."""
    follow(stack, "invoke secrets.init && printf 'pa$$ \"word' | invoke secrets.set setting")
    for version in ("one", "two"):
        done = stack.deploy(stack.version(version))
        assert done.returncode == 0, done.stderr
    [store] = [one for one in engine.client.containers.list(filters={"name": stack.name}) if "store" in str(one.name)]
    assert store.exec_run(["sh", "-c", f"echo '{KEPT}' > /data/page"]).exit_code == 0


def see_left(stack: EdgedStack, before: Any, answer: str, listed: str, engine: Engine) -> None:
    """See that it goes on without Conche, with what it had."""
    assert '"version": "two"' in answer
    assert stack.page() == {**before, "release": ""}
    assert follow(stack, "docker compose exec -T store cat /data/page") == f"{KEPT}\n"
    assert "page" in listed
    assert (stack.folder / "from-backup/docker/server.py").is_file()
    assert not (stack.folder / "stack.yaml").exists()
    left = engine.client.api.volumes(filters={"name": stack.project})["Volumes"] or []
    assert [one["Name"] for one in left if one["Name"].endswith("-state")] == []


@pytest.mark.parametrize("where", ["guestbook", pytest.param("on_swarm", marks=pytest.mark.long)])
def test_a_stack_goes_back_to_plain_compose_as_the_guide_says(
    where: str, engine: Engine, request: pytest.FixtureRequest
) -> None:
    stack: EdgedStack = request.getfixturevalue(where)
    live(stack, engine)
    before = stack.page()
    assert (before["version"], before["setting"]) == ("two", 'pa$$ "word')

    typed(stack, "1. Make a backup")
    typed(stack, "2. Write the secrets out")
    say, keep = blocks("3. Say what stack.yaml said", "sh")
    follow(stack, say)
    [plain] = blocks("3. Say what stack.yaml said", "yaml")
    stack.write("compose/plain.yaml", plain.replace("guestbook", stack.name))
    follow(stack, keep) if where == "guestbook" else typed(stack, "From a swarm")
    answer = typed(stack, "4. Change over")
    listed = typed(stack, "5. Open a backup without Conche")
    typed(stack, "6. Remove what is left")

    see_left(stack, before, answer, listed, engine)
    if where == "on_swarm":
        assert swarm.services(engine, stack.project) == ()
