"""Real database servers of Debian's packages in a small stack, begun as the official images begin theirs."""

from __future__ import annotations

import json
import secrets
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conche.engine import images
from conche.engine.connection import Engine
from conche.engine.images import Build
from conche.stack import Base
from conche.supply.base import provide
from tests.isolation import one_at_a_time
from tests.stacks import SmallStack

CONTEXT = Path(__file__).parent

BASE = "localhost:5000/conche-tests-databases:bookworm"

PACKAGES = ("postgresql-15", "mariadb-server", "redis-server", "sqlite3", "python3")

COMPOSE = """\
services:
  db:
    image: {image}
    container_name: {name}-db
    stop_grace_period: 20s
{service}
    secrets: [password]
volumes:
  data: {{name: {name}-data}}
secrets:
  password: {{file: ../password.txt}}
"""


def provide_base(engine: Engine) -> None:
    """See that the engine has the image with the packages."""
    base = Base(suite="bookworm", packages=PACKAGES, command=("sleep", "infinity"))
    provide(engine, {BASE: base}, BASE, lambda _: None)


def build(engine: Engine, image: str) -> None:
    """Build an image that has all the servers."""
    with one_at_a_time("images"):
        provide_base(engine)
        images.build(engine, Build(image, CONTEXT / "Dockerfile", CONTEXT))


@dataclass(frozen=True)
class Server:
    """A stack whose one service is a database server with a password in a file.

    Attributes:
        client: the argv in its container that takes SQL, or commands, from stdin.
    """

    stack: SmallStack
    engine: Engine
    client: tuple[str, ...]
    password: str

    @classmethod
    def create(cls, stack: SmallStack, engine: Engine, service: str, component: str, client: tuple[str, ...]) -> Server:
        """Start it.

        Args:
            service: further keys of the service in the Compose file.
            component: the keys of the component in stack.yaml, but its environment and service.
        """
        image, password = f"localhost:5000/{stack.name}:databases", f"canary-{secrets.token_hex(16)} $x'\""
        build(engine, image)
        stack.write("password.txt", password)
        (stack.folder / "password.txt").chmod(0o644)
        stack.write("compose/dev.yaml", COMPOSE.format(image=image, name=stack.name, service=service))
        backup = f"backup:\n  components:\n    db: {{{component}, environment: dev, service: db}}\n"
        stack.write("stack.yaml", (stack.folder / "stack.yaml").read_text() + backup)
        stack.up()
        return cls(stack, engine, client, password)

    def inside(self, *argv: str, stdin: str = "") -> str:
        done = subprocess.run(
            ["docker", "exec", "-i", f"{self.stack.name}-db", *argv],
            input=stdin,
            errors="surrogateescape",
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def ask(self, script: str, *more: str) -> str:
        """What the server answers to a script."""
        return self.inside(*self.client, *more, stdin=script)

    def invoke(self, *words: str) -> tuple[int, Any, str]:
        done = self.stack.invoke(*words, "--json")
        return done.returncode, json.loads(done.stdout), done.stderr

    def backup(self) -> str:
        """Make a complete backup, and return its name."""
        code, made, said = self.invoke("backup.create")
        assert code == 0, (made, said)
        return str(made["value"]["name"])

    def folder(self, name: str) -> Path:
        return self.stack.folder.parent / f"{self.stack.name}-backups/daily/{name}"
