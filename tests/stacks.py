"""Small stacks for tests: real files, real containers, names and ports of their own."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import socket
import subprocess
import sys
import uuid
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import docker.errors

from conche.engine import containers
from conche.engine.connection import Engine
from conche.engine.containers import Container
from tests import warm

ROOT = Path(__file__).resolve().parent.parent

SERVER = """\
import http.server, os, pathlib, signal, sys, time
behaviour = pathlib.Path("/app/behaviour").read_text().strip()
print("server starts:", behaviour, flush=True)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
if behaviour == "crash":
    sys.exit("the cause of the crash")
if behaviour == "hang":
    signal.pause()
if behaviour == "memory":
    hog = [bytearray(1 << 20) for _ in range(10_000)]
if behaviour == "slow":
    time.sleep(2)
class Page(http.server.BaseHTTPRequestHandler):
    ill = False
    def do_GET(self):
        now = pathlib.Path("/app/behaviour").read_text().strip()
        Page.ill = Page.ill or now == "ill"
        sick = behaviour == "sick" or Page.ill
        self.send_response(500 if sick else 200)
        self.end_headers()
        self.wfile.write(pathlib.Path("/app/version").read_bytes())
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("", 8000), Page).serve_forever()
"""

ASKS = json.dumps(
    "import socket, sys; to = socket.create_connection(('127.0.0.1', int(sys.argv[1])));"
    " to.sendall(b'GET / HTTP/1.0\\r\\n\\r\\n'); status = to.makefile('rb').read().split()[1].decode();"
    " status == '200' or sys.exit(f'HTTP Error {status}')"
)
"""A healthcheck in Python, as YAML: without urllib, whose import takes longer than all the rest."""

DOCKERFILE = """\
FROM python:3.11-slim-bookworm
COPY server.py /srv/server.py
CMD ["python3", "/srv/server.py"]
"""

COMPOSE = """\
services:
  web:
    image: localhost:5000/{name}:develop
    container_name: {name}-web
    stop_grace_period: 1s
    ports: ["127.0.0.1:${{CONCHE_PORT}}:8000"]
    environment:
      SETTING: ${{SETTING:-none}}
      WEB_TOKEN: ${{WEB_TOKEN:-}}
    volumes:
      - type: bind
        source: ../app
        target: /app
        read_only: true
      - kept:/kept
    networks: [outside]
    mem_limit: 64m
    healthcheck:
      test: ["CMD", "python3", "-ISc", {asks}, "8000"]
      interval: 3s
      timeout: 10s
      retries: 2
      start_period: 3s
    restart: unless-stopped
volumes:
  kept: {{name: {name}-kept}}
networks:
  outside: {{name: {name}-outside, external: true}}
"""

STACK = """\
name: {name}
registry: localhost:5000
images:
  web: {{dockerfile: docker/web.Dockerfile, context: docker, repository: {name}}}
bases:
  python:3.11-slim-bookworm: {{suite: bookworm, packages: [python3, python3-venv, ca-certificates]}}
environments:
  dev:
    compose: [compose/dev.yaml]
    tag: develop
    port: {port}
    health: http://127.0.0.1:{port}/
"""

TASKS = "from conche import namespace\nns = namespace(__file__)\n"


PORTS = range(18_000, 32_000)
"""Below the ports that Linux assigns to clients (ip(7), ip_local_port_range), so that none is taken in between."""

_given: list[socket.socket] = []


def free_port() -> int:
    """Return a port that nobody listens on, reserved until this process ends among all such tests on this machine.

    The reservation is an abstract socket with that name (unix(7)), which the kernel gives to one process only.
    """
    first = random.SystemRandom().randrange(len(PORTS))
    for port in itertools.chain(PORTS[first:], PORTS[:first]):
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0conche-tests-port-{port}")
            with socket.socket() as probe:
                probe.bind(("", port))
        except OSError:
            claim.close()
            continue
        _given.append(claim)
        return port
    raise AssertionError(f"no port of {PORTS} is free")


def tracked_files(root: Path) -> list[Path]:
    """Return the files of a checkout that git tracks, and the untracked ones that it does not ignore."""
    argv = ["git", "-C", str(root), "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(argv, capture_output=True, check=True).stdout.decode()
    return [Path(name) for name in listed.split("\0") if name and (root / name).is_file()]


def variables_in(container: str) -> dict[str, str]:
    """Return the environment of a program in a container."""
    said = subprocess.run(["docker", "exec", container, "env", "-0"], capture_output=True, check=True).stdout.decode()
    return dict(one.split("=", 1) for one in said.split("\0") if one)


@dataclass(frozen=True)
class SmallStack:
    """A stack of one web service, whose behaviour the tests decide.

    Attributes:
        folder: the checkout.
        name: of the stack; its Compose project is `<name>-dev`, its container `<name>-web`.
    """

    folder: Path
    name: str
    port: int

    @classmethod
    def create(cls, folder: Path, port: int) -> SmallStack:
        """Write the stack's files."""
        stack = cls(folder, f"t{uuid.uuid4().hex[:10]}", port)
        stack.write("tasks.py", TASKS)
        stack.write("stack.yaml", STACK.format(name=stack.name, port=port))
        stack.write("compose/dev.yaml", COMPOSE.format(name=stack.name, asks=ASKS))
        stack.write("docker/web.Dockerfile", DOCKERFILE)
        stack.write("docker/server.py", SERVER)
        stack.write("app/version", "one")
        stack.behave("well")
        return stack

    def write(self, name: str, content: str) -> None:
        """Write a file of the checkout."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)

    def replace(self, name: str, old: str, new: str) -> None:
        """Replace text in a file of the checkout."""
        before = (self.folder / name).read_text()
        assert old in before
        self.write(name, before.replace(old, new))

    def behave(self, how: str) -> None:
        """Behave well, slow, crash, hang, sick or memory from the server's next start on; ill at once, until then."""
        self.write("app/behaviour", how)

    @property
    def project(self) -> str:
        return f"{self.name}-dev"

    @property
    def image(self) -> str:
        return f"localhost:5000/{self.name}:develop"

    def argv(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "invoke", *words]

    def environment(self, **extra: str) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(ROOT), **extra}

    def invoke(self, *words: str, **extra: str) -> subprocess.CompletedProcess[str]:
        """Call a task as a user does, but without a terminal."""
        return warm.run(
            self.argv(*words),
            cwd=self.folder,
            env=self.environment(**extra),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=800,
        )

    def json(self, *words: str, **extra: str) -> Any:
        """Return the JSON document of a task."""
        return json.loads(self.invoke(*words, "--json", **extra).stdout)

    def up(self) -> None:
        """Bring the stack up, and check that this worked."""
        done = self.invoke("env.up")
        assert done.returncode == 0, done.stderr

    def containers(self, engine: Engine) -> tuple[Container, ...]:
        """Return its containers in any state, trials included."""
        return containers.of_project(engine, self.project) + containers.of_project(engine, f"{self.project}-trial")

    def remove_all(self, engine: Engine) -> None:
        """Remove whatever a test has left."""
        api = engine.client.api
        self._remove_containers(engine)
        for network in api.networks():
            if self.name in network["Name"]:
                api.remove_network(network["Id"])
        for volume in api.volumes()["Volumes"] or []:
            if self.name in volume["Name"]:
                api.remove_volume(volume["Name"], force=True)
        for image in api.images():
            for tag in image["RepoTags"] or []:
                if self.name in tag:
                    api.remove_image(tag, force=True)

    def _remove_containers(self, engine: Engine) -> None:
        """Remove its containers, and others with engine-made names that mount one of its volumes."""
        api = engine.client.api

        def ours(container: dict[str, Any]) -> bool:
            names = [*(container["Names"] or []), *(mount.get("Name") or "" for mount in container["Mounts"] or [])]
            return any(self.name in name for name in names)

        # What a test killed may just have had one more container made.
        for _ in range(10):
            left = [container["Id"] for container in api.containers(all=True) if ours(container)]
            if not left:
                break
            for container in left:
                try:
                    api.remove_container(container, force=True, v=True)
                except docker.errors.NotFound:
                    continue
                except docker.errors.APIError as error:
                    if error.status_code != HTTPStatus.CONFLICT:
                        raise
                    # The engine is already removing it.
                    with contextlib.suppress(docker.errors.NotFound):
                        api.wait(container, condition="removed", timeout=60)
