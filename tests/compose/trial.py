"""One Compose file, brought up by Compose and by Conche in turn, in the same folder under the same name."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from conche.engine.connection import Engine
from tests.compose.corpus import FILES, filled
from tests.compose.inspecting import allowed, differences, left, seen, unexplained
from tests.stacks import ROOT, TASKS, SmallStack, free_port

__all__ = ["Trial"]

STACK = "name: {name}\nenvironments: {{dev: {{compose: [compose.yaml], project: {name}, deploy: {{}}}}}}\n"

PAGE = ROOT / "docs/reference/compose.md"
"""It says what may differ."""


@dataclass(frozen=True)
class Trial:
    """A folder, a project and addresses for one file after another."""

    stack: SmallStack
    engine: Engine
    subnet: str

    @classmethod
    def create(cls, folder: Path, engine: Engine) -> Trial:
        numbers = random.SystemRandom()
        subnet = f"10.{numbers.randrange(64, 250)}.{numbers.randrange(256)}"
        return cls(SmallStack(folder, f"t{uuid.uuid4().hex[:10]}", free_port()), engine, subnet)

    def write(self, document: Mapping[str, Any]) -> None:
        """A folder that has this file, those that it may name, and nothing else."""
        if self.stack.folder.exists():
            shutil.rmtree(self.stack.folder)
        text = yaml.safe_dump(filled(document), sort_keys=False)
        for placeholder, value in (("NAME", self.stack.name), ("PORT", self.stack.port), ("SUBNET", self.subnet)):
            text = text.replace(placeholder, str(value))
        for name, content in {**FILES, "compose.yaml": text}.items():
            self.stack.write(name, content)
        (self.stack.folder / "note.txt").chmod(0o640)

    def take_up(self) -> None:
        self.stack.write("tasks.py", TASKS)
        self.stack.write("stack.yaml", STACK.format(name=self.stack.name))

    def compose(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Plain Compose, as somebody types it in the folder."""
        argv = ["docker", "compose", "--project-name", self.stack.name, *words]
        return subprocess.run(
            argv,
            cwd=self.stack.folder,
            env={**os.environ, **self._shell()},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def invoke(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.stack.invoke(*words, **self._shell())

    def _shell(self) -> dict[str, str]:
        """What somebody's shell says who has gone to the folder."""
        return {"PWD": str(self.stack.folder), "SHELL_VARIABLE": "from the shell"}

    def seen(self) -> dict[str, str]:
        """What is in the engine now."""
        rendered = json.loads(self.compose("--profile", "*", "config", "--format", "json").stdout)
        return seen(self.engine, self.stack.name, self.subnet, rendered)

    def left(self) -> list[str]:
        return left(self.engine, self.stack.name)

    def remove(self) -> None:
        self.stack.remove_all(self.engine)

    def see_the_same(self, document: Mapping[str, Any]) -> None:
        """Bring a file up by Compose and by Conche, and see that both do the same, also a second time."""
        self.write(document)
        plain = self.compose("up", "--detach")
        made = self.seen() if plain.returncode == 0 else {}
        self.remove()
        self.write(document)
        self.take_up()
        up = self.invoke("env.up")
        assert (up.returncode == 0) == (plain.returncode == 0), plain.stderr + up.stderr
        if plain.returncode != 0:
            assert not self.left(), f"left behind: {self.left()}"
            return
        self._see_explained(made, "env.up")
        planned = json.loads(self.invoke("env.up", "--json").stdout)["plan"]
        assert not planned, planned
        status = self.invoke("env.status")
        assert status.returncode == 0, status.stdout + status.stderr

    def see_released(self, document: Mapping[str, Any]) -> None:
        """Bring a file up by Compose and by a release, and see that they differ in nothing but what the page says."""
        self.write(document)
        plain = self.compose("up", "--detach")
        assert plain.returncode == 0, plain.stderr
        made = self.seen()
        self.remove()
        self.write(document)
        self.take_up()
        released = self.invoke("env.deploy", "--local", "--allow-dirty")
        assert released.returncode == 0, released.stderr
        self._see_explained(made, "env.deploy")
        status = self.invoke("env.status")
        assert status.returncode == 0, status.stdout + status.stderr

    def _see_explained(self, made: Mapping[str, str], after: str) -> None:
        strange = unexplained(differences(made, self.seen()), allowed(PAGE, after=after))
        assert not strange, "\n".join(f"{path}: {one} became {other}" for path, (one, other) in strange.items())
