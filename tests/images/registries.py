"""A real registry for tests, and a wire to it that a test can count, slow down and cut."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import bcrypt

from conche.engine.connection import Engine
from conche.engine.transfer import Credentials
from conche.secret import Secret
from conche.supply.registry import Registry
from tests.stacks import SmallStack, free_port

USER = "admin"

SECRETS = """\
login: {{user: registry_user, password: registry_password}}
secrets:
  declared:
    registry_user: {{environments: [dev], development: {user}}}
    registry_password: {{environments: [dev], generate: password}}
"""

PROD = """\
  prod:
    compose: [compose/prod.yaml]
    tag: production
    port: {port}
    protected: true
"""

LAYERED = """\
FROM scratch
COPY small /small
COPY large /large
"""

REQUEST = re.compile(rb"(GET|HEAD|PUT|POST|PATCH|DELETE) (/v2/\S*) HTTP/1")


@dataclass
class Wire:
    """A TCP proxy in front of a registry.

    Attributes:
        requests: method and path of each request, in order.
        sent: bytes that went to the registry.
        came: bytes that came from it.
        cut_at: bytes to the registry after which every connection is cut; None for never.
        heals: whether connections after the cut are carried again.
        watch: called with each request before it goes on.
        holds: whether nothing goes through, without any error.
    """

    upstream: int
    port: int = 0
    requests: list[str] = field(default_factory=list)
    sent: int = 0
    came: int = 0
    cut_at: int | None = None
    heals: bool = False
    watch: Callable[[str], object] | None = None
    holds: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _open: set[socket.socket] = field(default_factory=set)

    def reset(self) -> None:
        """As new."""
        self.requests.clear()
        self.sent = self.came = 0
        self.cut_at, self.heals, self.watch, self.holds = None, False, None, False

    @contextlib.contextmanager
    def carrying(self) -> Iterator[Wire]:
        """Listen, on a free port of 127.0.0.1."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.port = server.getsockname()[1]
            threading.Thread(target=self._accept, args=(server,), daemon=True).start()
            yield self
        for connection in list(self._open):
            connection.close()

    def _accept(self, server: socket.socket) -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            if self.cut_at is not None and self.sent > self.cut_at and not self.heals:
                client.close()
                continue
            try:
                upstream = socket.create_connection(("127.0.0.1", self.upstream))
            except OSError:  # as a client of the registry itself would see it; the next one may be luckier
                client.close()
                continue
            self._open |= {client, upstream}
            for pair, towards in (((client, upstream), True), ((upstream, client), False)):
                threading.Thread(target=self._carry, args=(*pair, towards), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket, towards: bool) -> None:
        with contextlib.suppress(OSError):
            while content := source.recv(1 << 16):
                if self.holds:
                    continue
                if towards and self._see(content):
                    break
                target.sendall(content)
                if not towards:
                    self.came += len(content)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
            self._open.discard(end)

    def _see(self, content: bytes) -> bool:
        """Note what goes to the registry; whether the connection is to be cut here."""
        for method, path in REQUEST.findall(content):
            said = f"{method.decode()} {path.decode()}"
            self.requests.append(said)
            if self.watch is not None:
                self.watch(said)
        with self._lock:
            before, self.sent = self.sent, self.sent + len(content)
        return self.cut_at is not None and self.sent > self.cut_at and not (self.heals and before > self.cut_at)


@dataclass(frozen=True)
class PrivateRegistry:
    """A registry in a container, behind a wire.

    Attributes:
        host: of the wire.
        container: its name.
    """

    wire: Wire
    password: str
    container: str

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.wire.port}"

    def client(self, *, direct: bool = True) -> Registry:
        """As somebody else asks it: not through the wire."""
        host = f"127.0.0.1:{self.wire.upstream}" if direct else self.host
        return Registry(host, Credentials(USER, Secret(self.password)))


@contextlib.contextmanager
def serving(engine: Engine, image: str, folder: Path, *, storage: Path | None = None) -> Iterator[PrivateRegistry]:
    """A registry like that of compose/git.yaml.

    Args:
        storage: a folder of the host that keeps what is pushed; default: a volume.
    """
    password, port, name = f"canary-{uuid.uuid4().hex}", free_port(), f"t{uuid.uuid4().hex[:10]}-registry"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "htpasswd"
    file.write_bytes(f"{USER}:".encode() + bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)) + b"\n")
    api = engine.client.api
    made = api.create_container(
        image,
        name=name,
        environment={
            "REGISTRY_AUTH": "htpasswd",
            "REGISTRY_AUTH_HTPASSWD_REALM": "tests",
            "REGISTRY_AUTH_HTPASSWD_PATH": "/htpasswd",
            "REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY": "/var/lib/registry",
            "REGISTRY_STORAGE_DELETE_ENABLED": "true",
        },
        ports=[5000],
        volumes=["/var/lib/registry"],
        host_config=api.create_host_config(
            port_bindings={5000: ("127.0.0.1", port)},
            binds=[f"{file}:/htpasswd:ro", *([f"{storage}:/var/lib/registry"] if storage else [])],
        ),
    )
    try:
        api.start(made["Id"])
        with Wire(port).carrying() as wire:
            registry = PrivateRegistry(wire, password, name)
            registry.client().wait(300)
            yield registry
    finally:
        api.remove_container(made["Id"], force=True, v=True)


@dataclass(frozen=True)
class Shop(SmallStack):
    """A small stack whose images go to a registry of the tests."""

    registry: PrivateRegistry

    @classmethod
    def open(cls, folder: Path, registry: PrivateRegistry, state: Path) -> Shop:
        """A git checkout with one commit; its development values open the registry."""
        small = SmallStack.create(folder, port=free_port())
        shop = cls(small.folder, small.name, small.port, registry)
        for file in ("stack.yaml", "compose/dev.yaml"):
            shop.replace(file, "localhost:5000", registry.host)
        dev = (folder / "compose/dev.yaml").read_text()
        shop.write("compose/prod.yaml", dev.replace("-web", "-prodweb").replace(":develop", ":production"))
        stack = (folder / "stack.yaml").read_text() + PROD.format(port=free_port()) + SECRETS.format(user=USER)
        shop.write("stack.yaml", stack)
        shop.knows(state, registry.password)
        shop.write(".gitignore", "docker/secrets/\n__pycache__/\n")
        shop.git("init", "--quiet")
        shop.commit("one")
        return shop

    def knows(self, state: Path, password: str) -> None:
        """The registry's password, as a machine without a key keeps it."""
        file = state / "conche" / self.name / "dev.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o600)
        file.write_text(f'{{"registry_user": "{USER}", "registry_password": "{password}"}}')

    def layered(self, content: bytes, *, date: str = "") -> str:
        """Commit an image of two layers of nothing but bytes: small, and large with this content."""
        self.write("docker/web.Dockerfile", LAYERED)
        self.write("docker/small", uuid.uuid4().hex)
        (self.folder / "docker/large").write_bytes(content)
        return self.commit("layered", date=date)

    def git(self, *words: str, **extra: str) -> str:
        identity = ["-c", "user.name=n", "-c", "user.email=e@x", "-c", "commit.gpgsign=false"]
        argv = ["git", "-C", str(self.folder), *identity, *words]
        environment = self.environment(**extra)
        return subprocess.run(argv, check=True, capture_output=True, text=True, env=environment).stdout.strip()

    def commit(self, message: str, *, date: str = "") -> str:
        """Commit everything, on a date if one is given; the abbreviated commit, which is a tag too."""
        self.git("add", "--all")
        extra = {"GIT_COMMITTER_DATE": date} if date else {}
        self.git("commit", "--quiet", "--allow-empty", "--message", message, **extra)
        return self.git("log", "-1", "--format=%h")

    @property
    def image(self) -> str:
        return f"{self.registry.host}/{self.name}:develop"

    def tags(self) -> tuple[str, ...]:
        """What the registry has."""
        return self.registry.client().tags(self.name)

    def digest(self, tag: str) -> str | None:
        return self.registry.client().digest(self.name, tag)

    def release(self, *words: str) -> str:
        """Release for dev; the reference by digest."""
        done = self.invoke("images.release", *words)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()
