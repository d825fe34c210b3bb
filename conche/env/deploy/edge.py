"""The edge: an nginx in front of an environment, and the one place where it is decided which release serves.

Each configuration is a folder of its own in the edge's volume; the link `current` names the one that counts. To switch
is to write a folder, to test it with nginx itself, to move the link, and to reload: old workers end their requests.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
import tarfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from conche.engine.connection import Engine, translated
from conche.engine.state import packed
from conche.errors import Refused, Restored
from conche.process import Completed, run

__all__ = ["FOLDER", "Configuration", "Edge", "configure", "listening"]

FOLDER = "/etc/conche/edge"
"""Where the edge's service mounts a volume of its own."""

DRAINING = "worker process is shutting down"
"""What nginx calls a worker that ends its last requests."""

PAUSE = 0.2
"""Seconds between two looks."""

ANSWER = 20
"""Seconds that one request of ours may take."""

SWITCHING = 10.0
"""Seconds within which a reload takes effect."""


@dataclass(frozen=True)
class Configuration:
    """One configuration of the edge.

    Attributes:
        name: of its folder, from its content.
        release: the release it sends requests to.
    """

    name: str
    release: str
    files: Mapping[str, bytes]


def configure(
    template: Path | None, *, release: str, upstream: str, listen: int, drain: float, maintenance: bool
) -> Configuration:
    """The configuration that sends requests to a release.

    Args:
        template: the checkout's own, or None for the built-in one.
        upstream: host:port, as the edge's network knows it.
        listen: the port inside the edge's container that its service publishes.
        maintenance: answer every request with the maintenance page.
    """
    own = files("conche.env.deploy")
    text = template.read_text(encoding="utf-8") if template else own.joinpath("nginx.conf").read_text(encoding="utf-8")
    page = own.joinpath("maintenance.html").read_bytes()
    words = {
        "release": release,
        "upstream": upstream,
        "listen": str(listen),
        "drain": str(max(1, round(drain))),
        "maintenance": "1" if maintenance else "",
    }
    for word, value in words.items():
        text = text.replace(f"@{word}@", value)
    name = f"{release}-{hashlib.sha256(text.encode() + page).hexdigest()[:8]}"
    text = text.replace("@folder@", f"{FOLDER}/{name}")
    return Configuration(name, release, {f"{name}/nginx.conf": text.encode(), f"{name}/maintenance.html": page})


@dataclass(frozen=True)
class Edge:
    """The edge of an environment, by its container.

    Args:
        container: id; it has the edge's volume mounted, running or not.
        listen: the port inside that its service publishes.
    """

    engine: Engine
    container: str
    listen: int
    clock: Callable[[], float] = time.monotonic
    pause: Callable[[float], None] = time.sleep

    def serving(self) -> str:
        """The release that the running configuration serves; empty where the edge does not answer."""
        said = self._curl(8082, "/", {})
        return said.stdout.partition("\n")[0].strip() if said.ok else ""

    def place(self, configuration: Configuration) -> None:
        """Write a configuration beside the one that counts."""
        with translated(self.engine.address):
            self.engine.client.api.put_archive(self.container, FOLDER, packed(configuration.files, mode=0o644))

    def prove(self, configuration: Configuration) -> None:
        """Let nginx test it.

        Raises:
            Restored: it is broken; what serves was not touched.
        """
        said = self._exec("nginx", "-t", "-q", "-c", f"{FOLDER}/{configuration.name}/nginx.conf")
        if not said.ok:
            raise Restored(
                "edge-broken",
                "nginx does not accept the edge's configuration; what serves was not touched.",
                evidence=said.last_lines(6),
                next_command="correct deploy.template in stack.yaml, or leave it out",
            )

    def begin(self, configuration: Configuration) -> None:
        """For an edge that does not run yet: let it start with this configuration."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            link = tarfile.TarInfo("current")
            link.type, link.linkname = tarfile.SYMTYPE, configuration.name
            archive.addfile(link)
        self.place(configuration)
        with translated(self.engine.address):
            self.engine.client.api.put_archive(self.container, FOLDER, buffer.getvalue())

    def switch(self, configuration: Configuration) -> None:
        """Let this configuration count, and see that it does.

        Raises:
            Restored: nginx does not take it up in time.
        """
        moved = f"ln -sfn {configuration.name} {FOLDER}/.next && mv -T {FOLDER}/.next {FOLDER}/current"
        self._exec("sh", "-c", moved).require("moving the edge's link")
        self._exec("nginx", "-s", "reload", "-c", f"{FOLDER}/current/nginx.conf").require("reloading the edge")
        deadline = self.clock() + SWITCHING
        while self.serving() != configuration.release:
            if self.clock() > deadline:
                raise Restored(
                    "edge-not-switched",
                    f"The edge did not take up {configuration.release} within {SWITCHING:g} s.",
                    evidence=self._log(),
                )
            self.pause(PAUSE)

    def probe(self, path: str, candidate: str = "") -> tuple[int, str]:
        """Ask through the edge: a candidate by the private entry, else what serves, as users do.

        Args:
            candidate: host:port of a release that does not serve yet.

        Returns:
            Status, 0 where there was no answer, and the answer.
        """
        headers = {"X-Conche-Candidate": candidate} if candidate else {}
        said = self._curl(8081 if candidate else self.listen, path, headers)
        body, _, status = said.stdout.rpartition("\n")
        return (int(status) if status.isdigit() else 0), body or said.stderr.strip()

    def drained(self, seconds: float) -> bool:
        """Wait until no worker of an earlier configuration has requests left; whether that came in time."""
        deadline = self.clock() + seconds
        while True:
            with translated(self.engine.address):
                running = self.engine.client.api.top(self.container)["Processes"]
            if not any(DRAINING in " ".join(process) for process in running):
                return True
            if self.clock() > deadline:
                return False
            self.pause(PAUSE)

    def sweep(self, keep: Configuration) -> None:
        """Remove configurations that do not count any more; old workers have theirs in memory."""
        names = self._exec("ls", FOLDER).stdout.split()
        old = [
            f"{FOLDER}/{name}"
            for name in names
            if re.fullmatch(r"(r\d+|nothing)-[0-9a-f]{8}", name) and name != keep.name
        ]
        if old:
            self._exec("rm", "-rf", *old)

    def _curl(self, port: int, path: str, headers: Mapping[str, str]) -> Completed:
        given = [part for name, value in headers.items() for part in ("--header", f"{name}: {value}")]
        return self._exec(
            "curl", "--silent", "--show-error", "--max-time", "5", "--write-out", r"\n%{http_code}", *given,
            f"http://127.0.0.1:{port}{path}",
        )  # fmt: skip

    def _exec(self, *words: str) -> Completed:
        argv = ["docker", "exec", self.container, *words]
        return run(argv, extra_env=self.engine.cli_environment(), timeout=ANSWER)

    def _log(self) -> list[str]:
        from conche.engine import containers

        with contextlib.suppress(Exception):
            return list(containers.last_lines(self.engine, self.container, 6))
        return []


def listening(published: list[Mapping[str, object]]) -> int:
    """The port inside the edge's container that its service publishes.

    Raises:
        Refused: it publishes none, or several.
    """
    ports = {int(str(port["target"])) for port in published}
    if len(ports) != 1:
        raise Refused(
            "edge-port-unclear",
            "The edge's service has to publish exactly one port.",
            looked_at=[str(sorted(ports))],
            next_command="correct `ports:` of the edge's service",
        )
    return ports.pop()
