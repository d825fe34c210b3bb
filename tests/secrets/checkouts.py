"""Checkouts with secrets for tests: real files, made by secrets.init."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests import warm

ROOT = Path(__file__).resolve().parents[2]

STACK = """\
name: secretive
registry: localhost:5000
secrets:
  declared:
    alpha: {outputs: [env, file], services: [web]}
    beta: {outputs: [env], generate: hex32}
    gamma: {outputs: [file], required: false}
environments:
  dev: {compose: [compose.yaml]}
"""


@dataclass(frozen=True)
class Checkout:
    """A git checkout whose stack declares alpha, beta and gamma."""

    folder: Path

    @classmethod
    def create(cls, folder: Path) -> Checkout:
        folder.mkdir()
        (folder / "stack.yaml").write_text(STACK)
        (folder / "compose.yaml").write_text("services: {web: {image: x}}\n")
        (folder / "tasks.py").write_text("from conche import namespace\nns = namespace(__file__)\n")
        checkout = cls(folder)
        checkout.git("init", "--initial-branch", "main")
        done = checkout.invoke("secrets.init")
        assert done.returncode == 0, done.stderr
        checkout.commit("init")
        return checkout

    def git(self, *words: str) -> subprocess.CompletedProcess[str]:
        identity = ["-c", "user.name=n", "-c", "user.email=e@x", "-c", "commit.gpgsign=false"]
        argv = ["git", "-C", str(self.folder), *identity, *words]
        return subprocess.run(argv, capture_output=True, text=True, check=False, env=self.environment())

    def commit(self, message: str) -> None:
        self.git("add", "--all")
        self.git("commit", "--message", message)

    def environment(self, **extra: str) -> dict[str, str]:
        path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
        return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), **extra}

    def invoke(self, *words: str, stdin: str = "", **extra: str) -> subprocess.CompletedProcess[str]:
        return warm.run(
            [sys.executable, "-m", "invoke", *words],
            cwd=self.folder,
            env=self.environment(**extra),
            input=stdin,
            capture_output=True,
            timeout=300,
        )

    def put(self, name: str, value: str) -> None:
        done = self.invoke("secrets.set", name, stdin=value)
        assert done.returncode == 0, done.stderr

    def value(self, name: str) -> str:
        return self.invoke("secrets.get", name).stdout
