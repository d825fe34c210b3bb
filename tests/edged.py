"""A stack with an edge: a web service with one image per version, a store that must not be replaced, and an nginx."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import tempfile
import urllib.error
import urllib.request
import uuid
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from conche.engine.connection import Engine
from tests import warm
from tests.stacks import ASKS, TASKS, SmallStack

SERVER = """\
import http.server, json, os, signal, sys, threading, time
how, version = os.environ["HOW"], os.environ["VERSION"]
print("server", version, "starts:", how, flush=True)
draining = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
if how == "crash":
    sys.exit("the cause of the crash")
if how == "slow":
    time.sleep(2)
begun = time.monotonic()
dying = threading.Timer(1, lambda: os._exit(3))
started = threading.Lock()
TOLD = ("x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-real-ip", "forwarded", "upgrade", "connection")
class Page(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        through_edge = "X-Request-Id" in self.headers
        users = through_edge and not self.headers.get("X-Conche-Candidate")
        sick = how == "sick" or (how == "sick-through-edge" and through_edge) or (how == "sick-to-users" and users)
        if how == "dies" and users and started.acquire(blocking=False):
            dying.start()
        wrong = how == "wrong" or os.path.exists("/tmp/wrong")
        release = "r0" if wrong else os.environ.get("CONCHE_RELEASE", "")
        if self.path.startswith("/slow"):
            time.sleep(float(self.path.partition("=")[2] or 1))
        late = how == "late" and time.monotonic() < begun + 5
        told = {name.lower(): value for name, value in self.headers.items() if name.lower() in TOLD}
        said = {"version": version, "release": release, "setting": os.environ.get("SETTING", "")}
        body = json.dumps(told if self.path == "/told" else said).encode()
        self.send_response(503 if late or (how == "unready" and self.path == "/ready") else 500 if sick else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = False
Server(("", 8000), Page).serve_forever()
"""

DOCKERFILE = """\
FROM python:3.11-slim-bookworm
ARG VERSION=one
ARG HOW=well
ENV VERSION=${VERSION} HOW=${HOW}
COPY server.py /srv/server.py
CMD ["python3", "/srv/server.py"]
"""

COMPOSE = """\
services:
  # The engine has to find out soon that a web is ill; Conche asks the others itself, and each look of the engine at
  # them would take a tenth of a second of a processor, for as long as the stack is there.
  web:
    image: localhost:5000/{name}:production
    stop_grace_period: 3s
    environment: {{SETTING: "${{SETTING:-none}}"}}
    networks: [inside]
    depends_on: [store]
    healthcheck:
      test: ["CMD", "python3", "-ISc", {asks}, "8000"]
      interval: 3s
      timeout: 10s
      retries: 2
      start_period: 3s
    restart: unless-stopped
  store:
    image: python:3.11-slim-bookworm
    container_name: {name}-store
    command: ["python3", "-m", "http.server", "9000"]
    init: true
    stop_grace_period: 1s
    networks: [inside]
    environment: {{STORED: "${{STORED:-none}}"}}
    healthcheck:
      test: ["CMD", "python3", "-ISc", {asks}, "9000"]
      interval: 15s
      timeout: 10s
      retries: 2
      start_period: 3s
    restart: unless-stopped
  edge:
    image: nginx:1.27
    command: ["nginx", "-c", "/etc/conche/edge/current/nginx.conf", "-g", "daemon off;"]
    ports: ["127.0.0.1:${{CONCHE_PORT}}:8000"]
    volumes: ["edge:/etc/conche/edge"]
    networks: [inside]
    healthcheck:
      test: ["CMD", "curl", "--fail", "--silent", "http://127.0.0.1:8082/"]
      interval: 15s
      timeout: 10s
      retries: 2
      start_period: 3s
    restart: unless-stopped
volumes:
  edge: {{name: {name}-edge}}
networks:
  inside: {{name: {name}-inside}}
"""

STACK = """\
name: {name}
registry: localhost:5000
images:
  web: {{dockerfile: docker/web.Dockerfile, context: docker, repository: {name}}}
bases:
  python:3.11-slim-bookworm: {{suite: bookworm, packages: [python3, python3-venv, ca-certificates]}}
  nginx:1.27: {{suite: bookworm, packages: [nginx-light, curl, ca-certificates], command: [nginx, -g, "daemon off;"]}}
environments:
  prod:
    compose: [compose/prod.yaml]
    tag: production
    port: {port}
    health: http://127.0.0.1:{port}/
    deploy:
      edge: edge
      serves: web
      observe: 1
      drain: 10
      probe: {{path: /, field: release, times: 3, ready: /ready}}
"""


BUILT_IN = files("conche.env.rollout").joinpath("nginx.conf").read_text()
"""The edge's built-in template."""


def marked(mark: str) -> str:
    """Return the built-in template with an added header in each answer."""
    plain = BUILT_IN.replace(
        "    add_header X-Request-Id $request_id always;\n    add_header X-Content-Type-Options nosniff always;\n", ""
    )
    return plain.replace("server_tokens off;", f"server_tokens off;\n  add_header X-Mark {mark} always;")


IMAGES = "conche-edged"
"""Name of the versions' images, which all stacks of a test session share."""


@functools.cache
def built(version: str, how: str) -> str:
    """Build a version; return its reference."""
    reference = f"{IMAGES}:{version}-{how}-{os.getpid()}"
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "server.py").write_text(SERVER)
        Path(folder, "Dockerfile").write_text(DOCKERFILE)
        argv = ["docker", "build", "--quiet", "--build-arg", f"VERSION={version}", "--build-arg", f"HOW={how}"]
        subprocess.run([*argv, "--tag", reference, folder], check=True, capture_output=True)
    return reference


@dataclass(frozen=True)
class EdgedStack(SmallStack):
    """A stack whose one environment, prod, has an edge; its Compose project is `<name>-prod`."""

    @classmethod
    def create(cls, folder: Path, port: int) -> EdgedStack:
        """Write the stack's files."""
        stack = cls(folder, f"t{uuid.uuid4().hex[:10]}", port)
        stack.write("tasks.py", TASKS)
        stack.write("stack.yaml", STACK.format(name=stack.name, port=port))
        stack.write("compose/prod.yaml", COMPOSE.format(name=stack.name, asks=ASKS))
        stack.write("docker/web.Dockerfile", DOCKERFILE)
        stack.write("docker/server.py", SERVER)
        return stack

    @property
    def project(self) -> str:
        return f"{self.name}-prod"

    def environment(self, **extra: str) -> dict[str, str]:
        """Keep the state folder beyond a test: without an age key, releases are sealed to one that is kept there."""
        return super().environment(**{"XDG_STATE_HOME": str(self.folder.parent / "state"), **extra})

    def version(self, name: str, how: str = "well") -> str:
        """Build a version of the web service, once for all stacks; return its reference."""
        reference = f"localhost:5000/{self.name}:{name}"
        subprocess.run(["docker", "tag", built(name, how), reference], check=True, capture_output=True)
        return reference

    def reference(self, version: str) -> str:
        """Return the reference of a version."""
        return f"localhost:5000/{self.name}:{version}"

    def deploy(self, image: str, *words: str, **extra: str) -> subprocess.CompletedProcess[str]:
        """Call env.deploy with a version that was built here."""
        return self.invoke("env.deploy", "--env", "prod", "--image", image, "--local", *words, **extra)

    def rollback(self, *words: str, **extra: str) -> subprocess.CompletedProcess[str]:
        """Call env.rollback."""
        return self.invoke("env.rollback", "--env", "prod", *words, **extra)

    def begin(self, *words: str, **extra: str) -> subprocess.Popen[str]:
        """Start a task that runs while the test goes on; stderr is a pipe."""
        return warm.Popen[str](
            self.argv(*words),
            cwd=self.folder,
            env=self.environment(**extra),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def page(self) -> Any:
        """Return what users get, however long that takes: the test's own time-out ends it."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/") as answer:
            return json.loads(answer.read())

    def mark(self) -> str:
        """Return the mark of the edge's template in what users get; the status if that is an error."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/") as answer:
                return str(answer.headers["X-Mark"])
        except urllib.error.HTTPError as error:
            return str(error.status)

    def use_template(self, content: str) -> None:
        """Set the checkout's template for the edge."""
        self.write("own.conf", content)
        if "template:" not in (self.folder / "stack.yaml").read_text():
            self.replace("stack.yaml", "      drain: 10\n", "      drain: 10\n      template: own.conf\n")

    def page_or(self, version: str) -> str:
        """Return a version that does not serve now: this one, or another."""
        try:
            serves = self.page()["version"]
        except (OSError, ValueError):
            return version
        return version if serves != version else f"{version}-again"

    def leftovers(self, engine: Engine) -> list[str]:
        """Return the containers beyond one of each service and the one that gives access to the state."""
        names = [name.lstrip("/") for one in engine.client.api.containers(all=True) for name in one["Names"] or []]
        ours = sorted(name for name in names if name.startswith(self.name))
        web = [one.name for one in self.containers(engine) if one.service == "web" and one.state == "running"]
        wanted = {f"{self.name}-store", f"{self.project}-edge-1", f"{self.project}-state", *web[:1]}
        return [name for name in ours if name not in wanted]

    def history(self) -> Any:
        """Return the value of env.history."""
        return json.loads(self.invoke("env.history", "--env", "prod", "--json").stdout)["value"]
