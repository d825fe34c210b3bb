"""Copies of this checkout, committed, under names and ports of their own."""

from __future__ import annotations

import re
import shutil
import subprocess
import uuid
from pathlib import Path
from typing import Any

import yaml

from tests.stacks import ROOT, SmallStack, free_port, tracked_files

__all__ = ["commit", "copied"]


def copied(folder: Path) -> tuple[SmallStack, str]:
    """A copy without Forgejo, and its registry's host."""
    host = f"localhost:{free_port()}"
    stack = SmallStack(folder, f"t{uuid.uuid4().hex[:10]}", free_port())
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
    git["services"] = {name: _alone(one) for name, one in git["services"].items() if name != "forgejo"}
    stack.write("compose/git.yaml", yaml.safe_dump(git))
    # Of a tree that was never built: a cache that has a step twice takes the one or the other for an old tree.
    stack.write("src/fastapi-app/app/marker.py", f"# {stack.name}\n")
    subprocess.run(["git", "init", "--quiet", "--initial-branch", "develop"], cwd=stack.folder, check=True)
    commit(stack)
    return stack, host


def _alone(service: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in service.items() if key != "depends_on"}


def commit(stack: SmallStack) -> None:
    """Everything that has changed, as one commit."""
    identity = ["-c", "user.name=n", "-c", "user.email=e@x", "-c", "commit.gpgsign=false"]
    for words in (["add", "--all"], [*identity, "commit", "--quiet", "--message", "a change"]):
        subprocess.run(["git", *words], cwd=stack.folder, check=True)
