"""A stack with an edge: a web service whose versions are images, a store that must not be replaced, and an nginx."""

from __future__ import annotations

import json
import subprocess
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.stacks import TASKS, SmallStack

SERVER = """\
import http.server, json, os, signal, sys, threading, time
how, version = os.environ["HOW"], os.environ["VERSION"]
print("server", version, "starts:", how, flush=True)
draining = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
if how == "crash":
    sys.exit("the cause of the crash")
if how == "dies":
    threading.Timer(float(os.environ.get("DIES_AFTER", "2")), lambda: os._exit(3)).start()
class Page(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        through_edge = "X-Request-Id" in self.headers
        sick = how == "sick" or (how == "sick-through-edge" and through_edge)
        release = "r0" if how == "wrong" else os.environ.get("CONCHE_RELEASE", "")
        if self.path.startswith("/slow"):
            time.sleep(float(self.path.partition("=")[2] or 1))
        body = json.dumps({"version": version, "release": release, "setting": os.environ.get("SETTING", "")}).encode()
        self.send_response(500 if sick else 200)
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
  web:
    image: localhost:5000/{name}:production
    stop_grace_period: 3s
    environment: {{SETTING: "${{SETTING:-none}}"}}
    networks: [inside]
    depends_on: [store]
    healthcheck:
      test: ["CMD", "python3", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/')"]
      interval: 1s
      timeout: 2s
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
      test: ["CMD", "python3", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:9000/')"]
      interval: 1s
      timeout: 2s
      retries: 3
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
      interval: 1s
      timeout: 2s
      retries: 3
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
      probe: {{path: /, field: release, times: 3}}
"""


@dataclass(frozen=True)
class EdgedStack(SmallStack):
    """A stack whose one environment, prod, has an edge; its Compose project is `<name>-prod`."""

    @classmethod
    def create(cls, folder: Path, port: int) -> EdgedStack:
        """Write its files."""
        stack = cls(folder, f"t{uuid.uuid4().hex[:10]}", port)
        stack.write("tasks.py", TASKS)
        stack.write("stack.yaml", STACK.format(name=stack.name, port=port))
        stack.write("compose/prod.yaml", COMPOSE.format(name=stack.name))
        stack.write("docker/web.Dockerfile", DOCKERFILE)
        stack.write("docker/server.py", SERVER)
        return stack

    @property
    def project(self) -> str:
        return f"{self.name}-prod"

    def environment(self, **extra: str) -> dict[str, str]:
        """Without an age key what a release keeps is sealed to one in the state folder, which outlives a test here."""
        return super().environment(XDG_STATE_HOME=str(self.folder.parent / "state"), **extra)

    def version(self, name: str, how: str = "well") -> str:
        """Build a version of the web service; its reference."""
        reference = f"localhost:5000/{self.name}:{name}"
        argv = ["docker", "build", "--quiet", "--build-arg", f"VERSION={name}", "--build-arg", f"HOW={how}"]
        argv += ["--tag", reference, "--file", "docker/web.Dockerfile", "docker"]
        subprocess.run(argv, cwd=self.folder, check=True, capture_output=True)
        return reference

    def deploy(self, image: str, *words: str, **extra: str) -> subprocess.CompletedProcess[str]:
        """env.deploy of a version that was built here."""
        return self.invoke("env.deploy", "--env", "prod", "--image", image, "--local", *words, **extra)

    def history(self) -> Any:
        """The value of env.history."""
        return json.loads(self.invoke("env.history", "--env", "prod", "--json").stdout)["value"]
