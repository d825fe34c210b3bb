"""docs/how-to/pipeline.md, The tailnet, on real Tailscale with a headscale of its own as control server.

Three environments are three nodes, and a fourth node asks from outside. `CONCHE_TEST_HEADSCALE_IMAGE` names another
image for the control server.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import yaml

from conche.engine.connection import Engine
from tests.real.road import ROOT, Failed, NotHere, Road, Walk, in_use
from tests.stacks import free_port
from tests.tailnets import Node, Tailnet, docker, until

__all__ = ["ROAD"]

HEADSCALE = os.environ.get("CONCHE_TEST_HEADSCALE_IMAGE") or "headscale/headscale:v0.29.2"

PORTS = (2222, 3000, 5000, 8000, 8001, 8086)
"""What the documentation publishes; the road is walked under the names and ports that it has."""

KEYS = {"dev": "tailscale_authkey_dev", "git": "tailscale_authkey_git", "prod": "tailscale_authkey"}

ANSWERS = [
    ("dev", 80, "/health", "healthy"),
    ("git", 80, "/api/healthz", "pass"),
    ("git", 2222, "/", "SSH-2.0"),
    ("git", 5000, "/v2/", "401 Unauthorized"),
]
PRODUCTION = [("prod", 80, "/health", "healthy"), ("prod", 8086, "/health", "influxdb")]
PART = "brought-up-in-part"
ECHO = """\
import http.server
class Echo(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(str(self.headers).encode())
http.server.HTTPServer(("", 8000), Echo).serve_forever()
"""
LIES = [
    ("X-Forwarded-For", "6.6.6.6"), ("X-Forwarded-Proto", "https"), ("Tailscale-User-Login", "somebody@example.org"),
]  # fmt: skip
"""What a client says of itself."""
SERVED_TO_NOBODY = [("dev", 8000), ("dev", 9002), ("git", 3000)]


def images() -> list[str]:
    """Every image of the environments that is pulled, but production's, and the control server."""
    return [*pulled("dev"), *pulled("git"), HEADSCALE]


def pulled(environment: str) -> list[str]:
    """The images of an environment that are neither built here nor made by `images.base`."""
    services = yaml.safe_load((ROOT / f"compose/{environment}.yaml").read_text(encoding="utf-8"))["services"].values()
    own = ("${CONCHE_REGISTRY", "chocolate-factory-runner:", "registry:", "nginx:")
    return sorted({one["image"] for one in services if not one["image"].startswith(own)})


def road(walk: Walk) -> None:
    """Every step; what was brought up is taken down, whatever happened."""
    if found := in_use(PORTS):
        raise NotHere(f"the names of the documentation are in use here: {', '.join(found)}")
    tailnet = control_server(walk)
    try:
        with walk.step("scripts/quickstart"):
            walk.run("scripts/quickstart")
        tailnet.begin()
        with _down_at_the_end(walk):
            # .env says which authorities count, and the shell would go before it.
            here = Joining(walk, tailnet, os.environ.pop("CA_BUNDLE", ""))
            here.prepare()
            here.three_nodes()
            here.serve_says_who_asks()
            here.lost()
            here.keys()
            here.away()
            here.logged_out()
    finally:
        tailnet.remove()
    with walk.step("what the tests believe of it"):
        argv = ("-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", "tests/contract/test_tailnet.py")
        named = {"CONCHE_TEST_TAILSCALE_IMAGE": tailnet.tailscale, "CONCHE_TEST_HEADSCALE_IMAGE": HEADSCALE}
        walk.run(sys.executable, *argv, variables=named)


def sidecar() -> str:
    """The image that joins an environment to a tailnet."""
    return next(image for image in pulled("dev") if "tailscale" in image)


def control_server(walk: Walk) -> Tailnet:
    """One that is not begun yet, which the host and containers in every network will reach."""
    gateway = docker("network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Gateway}}").strip()
    folder = walk.folder.parent / "headscale"
    folder.mkdir()
    return Tailnet(Engine(), folder, sidecar(), HEADSCALE, port=free_port(), address=gateway)


class Joining:
    """The clone, whose environments join a tailnet."""

    def __init__(self, walk: Walk, tailnet: Tailnet, authorities: str = "") -> None:
        self.walk, self.tailnet = walk, tailnet
        self.authorities = tailnet.folder / "authorities.pem"
        known = Path(authorities).read_text(encoding="utf-8") if authorities else ""
        self.authorities.write_text(known + (tailnet.folder / "tls.crt").read_text(encoding="utf-8"), encoding="utf-8")
        self.nodes = dict.fromkeys(("git", "dev"), "")

    def prepare(self) -> None:
        """What the how-to says before `env.up`."""
        file = self.walk.folder / "stack.yaml"
        text = file.read_text(encoding="utf-8")
        file.write_text(re.sub(r"^(    compose: .*)$", r"\1\n    profiles: [tailnet]", text, flags=re.MULTILINE))
        self._write_env()
        self.walk.invoke("secrets.init")
        self.walk.invoke("secrets.set", "registry_user", given="admin")
        for secret in ("registry_password", "influxdb_token", "influxdb_admin_password"):
            self.walk.invoke("secrets.set", secret, given=os.urandom(16).hex())

    def _write_env(self, **instead: str) -> None:
        variables = {
            "TAILNET_SERVER": self.tailnet.server, "TAILNET_HTTPS": "no", "TAILNET_ARGS": "",
            "CA_BUNDLE": str(self.authorities), "TAILNET_TCP_PROD": "8086:influxdb:8086",
            "TAILNET_TCP_GIT": '"2222:forgejo:2222 5000:registry:5000"', **instead,
        }  # fmt: skip
        file = self.walk.folder / ".env"
        file.write_text("".join(f"{name}={value}\n" for name, value in variables.items()))
        file.chmod(0o600)

    def three_nodes(self) -> None:
        """Each environment is reached by a node that is none of them, and only where it serves something."""
        self.refused("git", "secrets-incomplete", "tailscale_authkey_git, which has no value")
        for environment in ("git", "dev"):
            self.set_key(environment, self.tailnet.key("--tags", "tag:server"))
            self.walk.timed("env.up", "--env", environment)
        with self.walk.part("production", pulled("prod")) as can:
            if can:
                self._production()
        asking = self.tailnet.node("asking", self.tailnet.key(), told={"TS_SERVE_CONFIG": ""})
        until("the fourth node is there", lambda: "100.64." in asking.tailscale("ip", "-4"))
        with self.walk.step("asked by the fourth node"):
            for name, port, path, words in ANSWERS + (PRODUCTION if "prod" in self.nodes else []):
                _require_answer(asking, name, port, path, words)
            for name, port in SERVED_TO_NOBODY:
                said = ask(asking, name, port, "/")
                _require(f"{name}:{port} is not served: {said}", "connection was refused" in said)
        for environment in self.nodes:
            self.walk.invoke("env.status", "--env", environment)

    def serve_says_who_asks(self) -> None:
        """What production believes at its trusted port: Serve itself, and never what a client says of itself."""
        name = self.tailnet.name
        docker(
            "run", "--detach", "--name", f"{name}-echo", "--label", f"conche-tailnet={name}", "--network", name,
            "python:3.11-slim-bookworm", "python3", "-c", ECHO,
        )  # fmt: skip
        web = {"proxy.tailnet.example:80": {"Handlers": {"/": {"Proxy": f"http://{name}-echo:8000"}}}}
        proxy = self.tailnet.node("proxy", self.tailnet.key(), serves={"TCP": {"80": {"HTTP": True}}, "Web": web})
        asking = self.tailnet.node("lying", self.tailnet.key(), told={"TS_SERVE_CONFIG": ""})
        for node in (proxy, asking):
            until("it has an address", partial(_has_address, node))
        with self.walk.step("asked by a node that says it is another"):
            said = _require_answer(
                asking, "proxy", 80, "/", "200 OK", "".join(f"{key}: {lie}\r\n" for key, lie in LIES)
            )
            told = [line for line in said.splitlines() if line.startswith(("X-Forwarded-For", "X-Forwarded-Proto"))]
            address = asking.tailscale("ip", "-4").strip()
            _require(f"only its address is told: {told}", told == [f"X-Forwarded-For: {address}"])
            _require(f"nobody else's name is told: {said}", "somebody" not in said)

    def lost(self) -> None:
        """Production's state is lost, and its release has the key that is spent: the new one is used."""
        if "prod" not in self.nodes:
            return
        docker("rm", "--force", "chocolate_factory_tailscale_prod")
        docker("volume", "rm", "chocolate-factory_tailscale_prod")
        self.tailnet.ask("nodes", "delete", "--identifier", str(self.tailnet.nodes()["prod"]["id"]), "--force")
        self.set_key("prod", self.tailnet.key("--tags", "tag:server"))
        self.walk.timed("env.up", "--env", "prod")
        self.walk.invoke("env.status", "--env", "prod")

    def _production(self) -> None:
        self.nodes["prod"] = ""
        self.set_key("prod", self.tailnet.key("--tags", "tag:server"))
        for name, value in {"user.name": "walk", "user.email": "walk@example.org", "commit.gpgsign": "false"}.items():
            self.walk.run("git", "config", name, value)
        self.walk.run("git", "commit", "--quiet", "--all", "--message", "On the tailnet")
        self.walk.invoke("images.build", "--env", "prod")
        self.walk.timed("env.deploy", "--env", "prod", "--local")

    def set_key(self, environment: str, key: str) -> None:
        self.walk.invoke("secrets.set", KEYS[environment], given=key)

    def refused(self, environment: str, code: str, words: str) -> None:
        """`env.up` ends with this code, and says these words first."""
        with self.walk.step(f"invoke env.up --env {environment}: {words}"):
            error = json.loads(self.walk.invoke("env.up", "--env", environment, "--json", fails=True))["error"]
        first = [error["message"], *error.get("evidence", ())][:3]
        _require(f"{error['code']}: {first}", error["code"] == code and words in "\n".join(first))

    def keys(self) -> None:
        """Keys and names that do not do: the application serves all the time, and the answer says why."""
        down = ("env.down", "--env", "dev", "--volumes", "--yes")
        self.walk.timed(*down)
        _require("dev is logged out", bool(self.tailnet.nodes()["dev"].get("expiry")))
        self.refused("dev", PART, "authkey already used")
        _require("the application serves", "healthy" in _fetched(8001))
        self.set_key("dev", self.tailnet.expired_key())
        self.refused("dev", PART, "authkey expired")
        self.set_key("dev", f"{self.tailnet.key()}\nand a second line")
        self.refused("dev", PART, "auth")
        self.set_key("dev", self.tailnet.key())
        self._write_env(CA_BUNDLE="")
        self.refused("dev", PART, "certificate signed by unknown authority")
        self._write_env(TAILNET_TCP_DEV="8001")
        self.refused("dev", PART, "TAILNET_TCP_DEV: 8001 is not PORT:SERVICE:PORT")
        self._write_env()
        self.walk.timed("env.up", "--env", "dev")
        said = self.walk.invoke("env.status", "--env", "dev", fails=True)
        _require("a name that is taken is told", "tailscale is called dev-1 on the tailnet" in said)
        self.walk.invoke(*down)
        for name in ("dev", "dev-1"):
            self.tailnet.ask("nodes", "delete", "--identifier", str(self.tailnet.nodes()[name]["id"]), "--force")
        self.set_key("dev", self.tailnet.key("--ephemeral", "--reusable"))
        self.walk.timed("env.up", "--env", "dev")
        self.walk.invoke("env.status", "--env", "dev")

    def away(self) -> None:
        """Without its control server an environment comes up, and only its node does not."""
        docker("stop", "--time", "2", self.tailnet.name)
        until("missed", lambda: "is not seen by the control server" in self.status("dev"))
        self.walk.invoke("env.down", "--env", "dev", "--yes")
        self.refused("dev", PART, "fetch control key")
        _require("the application serves", "healthy" in _fetched(8001))
        docker("start", self.tailnet.name)
        self.walk.timed("env.up", "--env", "dev")
        until("seen again", lambda: "is not seen" not in self.status("dev"))

    def status(self, environment: str) -> str:
        """What `env.status` says, whether all is well or not."""
        return self.walk.invoke("env.status", "--env", environment, fails=None)

    def logged_out(self) -> None:
        """With its volume a node leaves; an ephemeral one is forgotten."""
        for environment in self.nodes:
            words = ("--confirm", environment) if environment == "prod" else ()
            self.walk.timed("env.down", "--env", environment, "--volumes", "--yes", *words)
        left = self.tailnet.nodes()
        _require("dev is forgotten", "dev" not in left)
        for name in self.nodes.keys() - {"dev"}:
            _require(f"{name} is logged out", bool(left[name].get("expiry")))


def _require_answer(node: Node, name: str, port: int, path: str, words: str, headers: str = "") -> str:
    """Within some tries: until two nodes have found each other, what is asked may get lost."""
    for _ in range(6):
        said = ask(node, name, port, path, headers)
        if words in said:
            return said
    raise Failed(f"{name}:{port} does not answer {words}, but: {said}\n{node.tailscale('status')}")


def ask(node: Node, name: str, port: int, path: str, headers: str = "") -> str:
    """What a node gets for a request of another; the program ends once its input has, so that stays open."""
    argv = ["docker", "exec", "--interactive", node.id, "timeout", "10"]
    argv += ["tailscale", "--socket=/tmp/tailscaled.sock", "nc", f"{name}.tailnet.example", str(port)]
    pipes: Mapping[str, int] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(argv, **pipes) as asking:  # type: ignore[call-overload]
        asking.stdin.write(f"GET {path} HTTP/1.0\r\nHost: {name}.tailnet.example\r\n{headers}\r\n".encode())
        asking.stdin.flush()
        return str(asking.stdout.read().decode(errors="replace"))


def _has_address(node: Node) -> bool:
    return "100.64." in node.tailscale("ip", "-4")


def _fetched(port: int) -> str:
    return subprocess.run(
        ["curl", "--silent", "--max-time", "10", f"http://localhost:{port}/health"],
        capture_output=True, text=True, check=False,
    ).stdout  # fmt: skip


def _require(what: str, holds: bool) -> None:
    if not holds:
        raise Failed(f"not so: {what}")


@contextmanager
def _down_at_the_end(walk: Walk) -> Iterator[None]:
    """The environments with their data; what is down already has nothing to delete."""
    failed = True
    try:
        yield
        failed = False
    finally:
        if not (failed and walk.keep) and Path(walk.folder / ".venv/bin/python").exists():
            walk.invoke("env.down", "--env", "prod", "--volumes", "--yes", "--confirm", "prod")
            for environment in ("dev", "git"):
                walk.invoke("env.down", "--env", environment, "--volumes", "--yes")


ROAD = Road("tailnet", images, road)
