"""docs/how-to/leave.md, followed word by word on a stack with releases, an edge, secrets and backups."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from conche.engine.connection import Engine
from tests.edged import EdgedStack
from tests.stacks import ROOT, free_port

pytestmark = [pytest.mark.engine, pytest.mark.e2e]

SECTIONS = """\
secrets: {{declared: {{setting: {{}}}}}}
backup:
  components:
    pages: {{driver: archive, paths: [docker]}}
    data: {{driver: volume, volume: {name}-data, environment: prod}}
"""

KEPT = "data that outlives every tool"


def blocks(heading: str, language: str) -> list[str]:
    """The fenced blocks below a heading of the guide."""
    guide = (ROOT / "docs/how-to/leave.md").read_text()
    [section] = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", guide, re.MULTILINE | re.DOTALL)
    return re.findall(rf"^```{language}\n(.*?)^```", section, re.MULTILINE | re.DOTALL)


@pytest.fixture
def guestbook(tmp_path: Path, engine: Engine, edge_image: str) -> Iterator[EdgedStack]:
    """A stack that has been run for a while: two releases, a secret, data in a volume."""
    stack = EdgedStack.create(tmp_path / "guestbook", free_port())
    stack.replace("stack.yaml", "environments:\n", SECTIONS.format(name=stack.name) + "environments:\n")
    stack.replace("compose/prod.yaml", "    init: true\n", "    init: true\n    volumes: ['data:/data']\n")
    stack.replace("compose/prod.yaml", "volumes:\n", f"volumes:\n  data: {{name: {stack.name}-data}}\n")
    yield stack
    subprocess.run(["docker", "compose", "--project-name", stack.project, "down", "--volumes"], check=False)
    subprocess.run(["docker", "image", "rm", f"{stack.name}-web:kept"], check=False, capture_output=True)
    stack.remove_all(engine)


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


def test_a_stack_goes_back_to_plain_compose_as_the_guide_says(guestbook: EdgedStack, engine: Engine) -> None:
    follow(guestbook, "invoke secrets.init && printf 'pa$$ \"word' | invoke secrets.set setting")
    for version in ("one", "two"):
        done = guestbook.deploy(guestbook.version(version))
        assert done.returncode == 0, done.stderr
    store = ["docker", "exec", f"{guestbook.name}-store"]
    subprocess.run([*store, "sh", "-c", f"echo '{KEPT}' > /data/page"], check=True)
    before = guestbook.page()
    assert (before["version"], before["setting"]) == ("two", 'pa$$ "word')

    typed(guestbook, "1. Make a backup")
    typed(guestbook, "2. Write the secrets out")
    say, keep = blocks("3. Say what stack.yaml said", "sh")
    follow(guestbook, say)
    [plain] = blocks("3. Say what stack.yaml said", "yaml")
    guestbook.write("compose/plain.yaml", plain.replace("guestbook", guestbook.name))
    follow(guestbook, keep)
    answer = typed(guestbook, "4. Change over")
    listed = typed(guestbook, "5. Open a backup without Conche")
    typed(guestbook, "6. Remove what is left")

    assert '"version": "two"' in answer
    assert guestbook.page() == {**before, "release": ""}
    said = subprocess.run([*store, "cat", "/data/page"], check=True, capture_output=True, text=True)
    assert said.stdout == f"{KEPT}\n"
    assert "page" in listed
    assert (guestbook.folder / "from-backup/docker/server.py").is_file()
    assert not (guestbook.folder / "stack.yaml").exists()
    left = engine.client.api.volumes(filters={"name": guestbook.project})["Volumes"] or []
    assert [one["Name"] for one in left if one["Name"].endswith("-state")] == []
