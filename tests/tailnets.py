"""A tailnet for tests and for walking: the stand-in, or real images if the environment names them."""

from __future__ import annotations

import json
import os
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conche.engine import containers, images
from conche.engine.connection import Engine
from conche.engine.containers import Container
from conche.engine.images import Build
from conche.testing import tailnet

__all__ = ["HEADSCALE", "REAL", "Tailnet", "until"]

REAL = {name: os.environ.get(f"CONCHE_TEST_{name.upper()}_IMAGE", "") for name in ("tailscale", "headscale")}

HEADSCALE = """\
server_url: https://{name}:{port}
listen_addr: 0.0.0.0:{port}
tls_cert_path: /etc/headscale/tls.crt
tls_key_path: /etc/headscale/tls.key
metrics_listen_addr: 127.0.0.1:9090
unix_socket: /var/run/headscale.sock
noise: {{private_key_path: /var/lib/headscale/noise_private.key}}
prefixes: {{v4: 100.64.0.0/10}}
disable_check_updates: true
database: {{type: sqlite, sqlite: {{path: /var/lib/headscale/db.sqlite}}}}
dns: {{magic_dns: true, base_domain: tailnet.example, override_local_dns: false}}
derp:
  urls: []
  auto_update_enabled: false
  server:
    enabled: true
    region_id: 999
    region_code: own
    region_name: own
    stun_listen_addr: 0.0.0.0:3478
    private_key_path: /var/lib/headscale/derp_server_private.key
"""
"""What headscale needs to be told for nodes that reach it as `name` at `port`, with its certificate beside it."""

LONGEST = 300.0
"""Seconds for what takes some of them."""


def until(what: str, look: Callable[[], Any]) -> Any:
    """Look until there is something to see."""
    end = time.monotonic() + LONGEST
    while not (seen := look()):
        assert time.monotonic() < end, f"not within {LONGEST:.0f} s: {what}"
        time.sleep(0.2)
    return seen


def docker(*words: str, check: bool = True) -> str:
    """Run docker; what it has printed."""
    done = subprocess.run(["docker", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0 or not check, f"docker {' '.join(words)}: {done.stderr}"
    return done.stdout if check else done.stdout + done.stderr


@dataclass
class Tailnet:
    """A control server, and nodes that are told to join it.

    Attributes:
        folder: its certificate, which is its own authority.
        address: where it is reached instead of by its name in the network of all of them.
    """

    engine: Engine
    folder: Path
    tailscale: str
    headscale: str
    name: str = field(default_factory=lambda: f"tn{uuid.uuid4().hex[:10]}")
    port: int = 8443
    address: str = ""

    @classmethod
    def create(cls, engine: Engine, folder: Path) -> Tailnet:
        """Make one of the stand-in, or of the images that the environment names."""
        stand_in = f"{folder.name.lower()}/tailscale/tailscale:{uuid.uuid4().hex[:10]}"
        if not all(REAL.values()):
            images.build(engine, Build(stand_in, tailnet.DOCKERFILE, tailnet.CONTEXT))
        made = cls(engine, folder, REAL["tailscale"] or stand_in, REAL["headscale"] or stand_in)
        made.begin()
        return made

    @property
    def server(self) -> str:
        """How nodes reach it."""
        return f"https://{self.address or self.name}:{self.port}"

    def begin(self) -> None:
        """Start the control server, with a certificate for where it is reached."""
        certificate, key = self.folder / "tls.crt", self.folder / "tls.key"
        name = f"IP:{self.address}" if self.address else f"DNS:{self.name}"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days",
             "30", "-subj", "/CN=headscale", "-addext", f"subjectAltName={name}", "-keyout", key, "-out", certificate],
            check=True, capture_output=True,
        )  # fmt: skip
        (self.folder / "config.yaml").write_text(HEADSCALE.format(name=self.address or self.name, port=self.port))
        docker("network", "create", self.name)
        options = ["--publish", f"{self.address}:{self.port}:{self.port}"] if self.address else []
        options += ["--entrypoint", "headscale"] if self.headscale == self.tailscale else []
        docker("create", "--name", self.name, "--network", self.name, *options, self.headscale, "serve")
        # The image's own user may not be the one whom these files belong to.
        for file in (certificate, key, self.folder / "config.yaml"):
            file.chmod(0o644)
        docker("cp", f"{self.folder}/.", f"{self.name}:/etc/headscale")
        docker("start", self.name)
        until("headscale answers", lambda: "created" in self.ask("users", "create", "us", check=False))

    def ask(self, *words: str, check: bool = True) -> str:
        """What the control server's own program answers."""
        return docker("exec", self.name, "headscale", *words, check=check)

    def key(self, *options: str) -> str:
        """A new key; used once, and for an hour, unless the options say otherwise."""
        made = json.loads(self.ask("preauthkeys", "create", "--user", "1", *options, "--output", "json"))
        return str(made["key"])

    def expired_key(self) -> str:
        """A key that nobody has used while it was valid."""
        key, end = self.key("--expiration", "1s"), time.monotonic() + 1.5
        until("it has expired", lambda: time.monotonic() > end)
        return key

    def nodes(self) -> dict[str, dict[str, Any]]:
        """Every node that the server lists, by name."""
        return {one["given_name"]: one for one in json.loads(self.ask("nodes", "list", "--output", "json")) or ()}

    def node(
        self,
        hostname: str,
        key: str,
        *,
        serves: Mapping[str, Any] | None = None,
        told: Mapping[str, str] | None = None,
    ) -> Node:
        """Start a node that trusts the server's certificate, unless it is told otherwise."""
        variables = {
            "TS_USERSPACE": "true", "TS_AUTH_ONCE": "true", "TS_STATE_DIR": "/var/lib/tailscale", "TS_AUTHKEY": key,
            "TS_EXTRA_ARGS": f"--login-server={self.server}", "TS_NO_LOGS_NO_SUPPORT": "true",
            "SSL_CERT_FILE": "/etc/tls.crt", "TS_SERVE_CONFIG": "/tmp/serve.json", "STAND_IN_TRIES": "3",
            **(told or {}),
        }  # fmt: skip
        named = [word for name, value in variables.items() for word in ("--env", f"{name}={value}")]
        identity = docker(
            "create", "--hostname", hostname, "--network", self.name, "--label", f"conche-tailnet={self.name}",
            *named, self.tailscale,
        ).strip()  # fmt: skip
        (self.folder / "serve.json").write_text(json.dumps(serves or {}))
        docker("cp", str(self.folder / "serve.json"), f"{identity}:/tmp/serve.json")
        docker("cp", str(self.folder / "tls.crt"), f"{identity}:/etc/tls.crt")
        docker("start", identity)
        return Node(self, identity)

    def remove(self) -> None:
        """Every container and the network."""
        nodes = docker("ps", "--all", "--quiet", "--filter", f"label=conche-tailnet={self.name}").split()
        docker("rm", "--force", "--volumes", self.name, *nodes, check=False)
        docker("network", "rm", self.name, check=False)
        if self.tailscale == self.headscale:
            docker("rmi", "--force", self.tailscale, check=False)


@dataclass(frozen=True)
class Node:
    """The container of a node."""

    tailnet: Tailnet
    id: str

    @property
    def container(self) -> Container:
        found = containers.read(self.tailnet.engine, self.id)
        assert found is not None
        return found

    def log(self) -> list[str]:
        """Everything it has written."""
        argv = ["docker", "logs", self.id]
        merged = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True)
        return merged.stdout.splitlines()

    def tailscale(self, *words: str) -> str:
        """What its own program answers, whether that works or not."""
        return docker("exec", self.id, "sh", "-c", 'exec tailscale --socket=/tmp/tailscaled.sock "$@"', "sh", *words,
                      check=False)  # fmt: skip
