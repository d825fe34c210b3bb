"""docs/how-to/pipeline.md on a real Forgejo and its runner: from a fresh clone to what serves, and what follows."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.real.road import ROOT, Failed, NotHere, Road, Walk

__all__ = ["ROAD"]

DEV = "http://localhost:8001"
WORK = Path("/srv/chocolate-factory")
"""Where the runners work, as compose/git.yaml has it."""

PORTS = (2222, 3000, 5000, 8000, 8001)
"""What the documentation publishes; the road is walked under the names and ports that it has."""


def images() -> list[str]:
    """The servers of the git environment, and what the runners' image is made of where it is not made yet."""
    written = yaml.safe_load((ROOT / "compose/git.yaml").read_text(encoding="utf-8"))["services"]
    runner = written["gitea-runner-dev"]["image"]
    made = subprocess.run(["docker", "image", "inspect", runner], capture_output=True, check=False).returncode == 0
    text = (ROOT / "docker/runner.Dockerfile").read_text(encoding="utf-8")
    parts = [name for name in re.findall(r"^FROM (\S+)", text, re.MULTILINE) if "$" not in name]
    return [written["forgejo"]["image"], *([] if made else parts)]


def road(walk: Walk) -> None:
    """Every step; what was brought up is taken down, whatever happened."""
    _require_untaken()
    with _down_at_the_end(walk):
        with walk.step("scripts/quickstart"):
            walk.run("scripts/quickstart")
        walk.timed("env.up", "--env", "git")
        walk.timed("ci.setup", "--dry-run")
        done = json.loads(walk.timed("ci.setup", "--json"))["value"]
        remote, branch = done["remote"], done["branch"]
        deployed(walk, remote, branch)


def deployed(walk: Walk, remote: str, branch: str) -> None:
    """A push, and the application that answers with its commit."""
    with walk.step("from push to deployed"):
        walk.run("git", "push", "--quiet", remote, branch)
        walk.invoke("ci.watch")
    commit = walk.run("git", "rev-parse", "HEAD").strip()
    said = version()
    if said["git_revision"] != commit:
        raise Failed(f"{DEV}/version says {said}, and {commit} was pushed")


def version() -> dict[str, Any]:
    """What serves."""
    said: dict[str, Any] = httpx.get(f"{DEV}/version", timeout=30).json()
    return said


def _require_untaken() -> None:
    names = yaml.safe_load((ROOT / "stack.yaml").read_text(encoding="utf-8"))["name"]
    argv = ["docker", "volume", "ls", "--quiet", "--filter", f"name=^{names}_"]
    volumes = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()
    taken = [f"volume {name}" for name in volumes] + [f"port {port}" for port in PORTS if not _free(port)]
    taken += [f"folder {WORK}"] if WORK.exists() else []
    if taken:
        raise NotHere(f"the names of the documentation are in use here: {', '.join(taken)}")


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@contextmanager
def _down_at_the_end(walk: Walk) -> Iterator[None]:
    """The environments with their data, and the folder of the runners; one that never came up has nothing to delete."""
    try:
        yield
    finally:
        if (walk.folder / ".venv/bin/python").exists():
            walk.invoke("env.down", "--env", "prod", "--volumes", "--yes", "--confirm", "prod")
            for environment in ("dev", "git"):
                walk.invoke("env.down", "--env", environment, "--volumes", "--yes")
        shutil.rmtree(WORK, ignore_errors=True)


ROAD = Road("forgejo", images, road)
