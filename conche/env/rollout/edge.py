"""The edge: an nginx in front of an environment, and the one place that decides which release serves.

Each configuration is a folder of its own in the edge's volume; the link `current` names the one in use. A switch writes
a folder, lets nginx itself test it, moves the link and reloads nginx; old workers end their requests.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
import tarfile
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from conche.engine import containers
from conche.engine.connection import Engine, translated
from conche.engine.inside import execute, processes
from conche.engine.state import packed
from conche.errors import Refused, Restored
from conche.process import Completed
from conche.release.document import Template
from conche.stack import Deploy

__all__ = ["FOLDER", "Answer", "Edge", "EdgeConfiguration", "configure", "listening", "read_template"]

FOLDER = "/etc/conche/edge"
"""Where the edge's service mounts a volume of its own."""

DRAINING = "worker process is shutting down"
"""What nginx calls a worker that is ending its last requests."""

SELF = "8082/"
"""Port and path where the edge says which release it serves."""

PAUSE = 0.2
"""Seconds between two polls."""

SWITCHING = 10.0
"""Seconds within which a reload takes effect."""

SWITCHING_BACK = 60.0
"""Seconds within which a reload of what worked before takes effect, however busy the machine is."""

MAINTAINED = "-maintenance"
"""Suffix of the name of a configuration that shows the maintenance page instead of its release."""

NAMED = re.compile(rf"(r\d+|nothing)-[0-9a-f]{{8}}({MAINTAINED})?")
"""Matches the name of a configuration's folder; the first group is its release."""

LISTEN_TRUSTED = "@listen_trusted@"
"""Word of a template in whose place the edge listens for proxies of its own network."""

MARK = "# Names its containers; without that it is "
"""Begins the first line of a configuration that names containers, before the name of the one that does not."""

LARGEST = 1 << 20
"""Most bytes of a file in the edge's volume; a larger one is not ours."""


@dataclass(frozen=True)
class EdgeConfiguration:
    """One configuration of the edge.

    Attributes:
        name: its folder's name, derived from its content.
        release: the release it sends requests to.
    """

    name: str
    release: str
    files: Mapping[str, bytes]

    @property
    def unnamed(self) -> str:
        """The name of the configuration that it was made from; empty for one that names no containers."""
        first = self.files.get(f"{self.name}/nginx.conf", b"").decode(errors="replace").partition("\n")[0]
        return first.removeprefix(MARK) if first.startswith(MARK) else ""

    @property
    def plain(self) -> str:
        """Its name regardless of whether it shows the maintenance page or names containers for a while."""
        return (self.unnamed or self.name).removesuffix(MAINTAINED)


def read_template(root: Path, deploy: Deploy) -> Template:
    """Read the template that the checkout uses: its own, or the built-in one.

    Raises:
        Refused: it cannot be read.
    """
    if deploy.template is None:
        text = files("conche.env.rollout").joinpath("nginx.conf").read_text(encoding="utf-8")
        return _trusting(text, deploy)
    path = root / deploy.template
    try:
        return _trusting(path.read_text(encoding="utf-8"), deploy)
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(
            "template-unreadable",
            f"The edge's template {deploy.template} cannot be read: {getattr(error, 'strerror', None) or error}.",
            looked_at=[str(path)],
            next_command="correct deploy.template in stack.yaml, or leave it out",
        ) from error


def _trusting(text: str, deploy: Deploy) -> Template:
    """Fill in the proxies that are believed: they belong to a release, like the template that they stand in."""
    text = text.replace("@trusted@", "\n".join(f"  set_real_ip_from {one};" for one in deploy.trust))
    text = text.replace("@trusts@", "\n".join(f"    {one} 1;" for one in deploy.trust))
    if deploy.trusted_port is not None and LISTEN_TRUSTED not in text:
        raise Refused(
            "template-incomplete",
            f"The edge's template {deploy.template} lacks {LISTEN_TRUSTED}, so nothing would listen on"
            " deploy.trusted_port.",
            next_command="add it as in `conche docs deploy`, or leave deploy.trusted_port out",
        )
    port = deploy.trusted_port
    text = text.replace(LISTEN_TRUSTED, f"listen {port} default_server;" if port else "")
    text = text.replace("@trusts_port@", f"{port} 1;" if port else "")
    return Template(text, deploy.port, deploy.drain)


def configure(template: Template, *, release: str, upstream: str, listen: int, maintenance: bool) -> EdgeConfiguration:
    """Make the configuration that sends requests to a release.

    Args:
        upstream: host:port, as the edge's network knows it.
        listen: the port inside the edge's container that its service publishes.
        maintenance: answer every request with the maintenance page.
    """
    page = files("conche.env.rollout").joinpath("maintenance.html").read_bytes()
    words = {
        "release": release,
        "upstream": upstream,
        "listen": str(listen),
        "drain": str(max(1, round(template.drain))),
    }
    text = template.text
    for word, value in words.items():
        text = text.replace(f"@{word}@", value)
    # Under maintenance the digest is that of what would serve: the two differ in nothing else.
    told = hashlib.sha256(text.replace("@maintenance@", "").encode() + page).hexdigest()[:8]
    name = f"{release}-{told}{MAINTAINED if maintenance else ''}"
    text = text.replace("@maintenance@", "1" if maintenance else "").replace("@folder@", f"{FOLDER}/{name}")
    return EdgeConfiguration(name, release, {f"{name}/nginx.conf": text.encode(), f"{name}/maintenance.html": page})


@dataclass(frozen=True)
class Answer:
    """What a request was answered.

    Attributes:
        status: HTTP status; 0 if there was no answer.
        body: the answer's body, or why there was no answer.
    """

    status: int
    body: str

    @property
    def good(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status < 300

    @property
    def brief(self) -> str:
        """The answer in one short line."""
        words = " ".join(re.sub(r"<[^>]*>", " ", self.body).split())
        return f"{self.status or 'no answer'} {words[:80]}".strip()

    def __str__(self) -> str:
        return f"{self.status or 'no answer'} {self.body[:200]}"


@dataclass(frozen=True)
class Edge:
    """The edge of an environment, by its container.

    Args:
        container: its id; it has the edge's volume mounted, running or not.
        listen: the port inside the container that its service publishes.
    """

    engine: Engine
    container: str
    listen: int
    clock: Callable[[], float] = time.monotonic
    pause: Callable[[float], None] = time.sleep

    def serving(self) -> str:
        """Return the release that the running configuration serves; empty if the edge does not answer."""
        return self._served(self._ask((SELF,)))

    def state(self, path: str) -> tuple[str, Answer]:
        """Return the release that the running configuration serves, and what its users are answered."""
        answers = self._ask((SELF, f"{self.listen}{path}"))
        return self._served(answers[:1]), answers[1]

    def kept(self) -> tuple[str, tuple[EdgeConfiguration, ...]]:
        """Return the name of the configuration in use, empty before there is one, and every one there is, newest first.

        They are read from the volume, so the edge need not run.
        """
        with translated(self.engine.address):
            stream, _ = self.engine.client.api.get_archive(self.container, FOLDER)
            content = b"".join(stream)
        found: dict[str, dict[str, bytes]] = {}
        ages: dict[str, float] = {}
        counts = ""
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            for member in archive:
                name, _, file = member.name.partition("/")[2].partition("/")
                if name == "current" and member.issym():
                    counts = member.linkname.rpartition("/")[2]
                if not NAMED.fullmatch(name):
                    continue
                ages[name] = max(member.mtime, ages.get(name, 0))
                if member.isfile() and member.size <= LARGEST and (read := archive.extractfile(member)):
                    found.setdefault(name, {})[f"{name}/{file}"] = read.read()
        names = sorted(found, key=lambda name: ages[name], reverse=True)
        return counts, tuple(EdgeConfiguration(name, name.partition("-")[0], found[name]) for name in names)

    def in_place(self) -> EdgeConfiguration | None:
        """Return the configuration in use; None before there is one."""
        counts, every = self.kept()
        return next((one for one in every if one.name == counts), None)

    def placed(self, name: str) -> EdgeConfiguration:
        """Return a configuration that was placed, by name."""
        return next(one for one in self.kept()[1] if one.name == name)

    def place(self, configuration: EdgeConfiguration) -> None:
        """Write a configuration beside the one in use."""
        with translated(self.engine.address):
            self.engine.client.api.put_archive(self.container, FOLDER, packed(configuration.files, mode=0o644))

    def prove(self, configuration: EdgeConfiguration) -> None:
        """Let nginx test a placed configuration.

        Raises:
            Restored: it is broken; what serves was not touched.
        """
        said = self._exec("nginx", "-t", "-q", "-c", f"{FOLDER}/{configuration.name}/nginx.conf")
        if not said.ok:
            raise Restored(
                "edge-broken",
                "nginx rejects the edge's configuration; the release that serves was not touched.",
                evidence=said.last_lines(6),
                next_command="correct deploy.template in stack.yaml, or leave it out",
            )

    def begin(self, configuration: EdgeConfiguration) -> None:
        """Let an edge that does not run yet start with this configuration."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            link = tarfile.TarInfo("current")
            link.type, link.linkname = tarfile.SYMTYPE, configuration.name
            archive.addfile(link)
        self.place(configuration)
        with translated(self.engine.address):
            self.engine.client.api.put_archive(self.container, FOLDER, buffer.getvalue())

    def switch(self, configuration: EdgeConfiguration, within: float = SWITCHING) -> None:
        """Put this configuration in use, and wait until no worker of another one takes requests.

        Args:
            within: seconds; longer on the way back, as nothing else is left to do then.

        Raises:
            Restored: nginx does not take it up in time.
        """
        old = self._workers().keys()
        moved = f"ln -sfn {configuration.name} {FOLDER}/.next && mv -T {FOLDER}/.next {FOLDER}/current"
        reloaded = f"{moved} && nginx -s reload -c {FOLDER}/current/nginx.conf"
        self._exec("sh", "-c", reloaded).require("switching the edge")
        deadline = self.clock() + within
        while self._taking(old) or self.serving() != configuration.release:
            if self.clock() > deadline:
                raise Restored(
                    "edge-not-switched",
                    f"The edge did not switch to {configuration.release} within {within:g} s.",
                    evidence=self._log(),
                )
            self.pause(PAUSE / 4)

    def switch_back(self, configuration: EdgeConfiguration) -> None:
        """Switch to what served before, and wait until the engine too finds the edge well again.

        A configuration that answers wrongly may have made it unhealthy, and the engine checks again in its own time.
        """
        self.switch(configuration, SWITCHING_BACK)
        deadline = self.clock() + SWITCHING_BACK
        while (seen := containers.read(self.engine, self.container)) and seen.health == "unhealthy":
            if self.clock() > deadline:
                return
            self.pause(PAUSE)

    def _taking(self, workers: Collection[str]) -> bool:
        """Return whether one of these workers still takes requests."""
        now = self._workers()
        return any(one in now and DRAINING not in now[one] for one in workers)

    def _workers(self) -> dict[str, str]:
        """Return nginx's workers: process id -> what it calls itself."""
        running = processes(self.engine, self.container)
        return {number: said for number, said in running.items() if "worker process" in said}

    def probe(self, paths: Sequence[str], candidate: str = "") -> list[Answer]:
        """Ask for paths through the edge, one after the other: a candidate by the private entry, else as users do.

        Args:
            candidate: host:port of a release that does not serve yet.
        """
        headers = {"X-Conche-Candidate": candidate} if candidate else {}
        return self._ask([f"{8081 if candidate else self.listen}{path}" for path in paths], headers)

    def reaches(self, entry: str, path: str) -> Answer:
        """Return what host:port itself answers, bypassing every configuration."""
        return self._ask((f"{entry}{path}",), host="")[0]

    def drained(self, seconds: float) -> bool:
        """Wait until no worker of an earlier configuration has requests left; return whether that came in time."""
        deadline = self.clock() + seconds
        while True:
            if not any(DRAINING in said for said in self._workers().values()):
                return True
            if self.clock() > deadline:
                return False
            self.pause(PAUSE)

    def sweep(self, keep: EdgeConfiguration) -> None:
        """Remove configurations that are no longer in use; old workers have theirs in memory."""
        names = self._exec("ls", FOLDER).stdout.raw.split()
        old = [f"{FOLDER}/{name}" for name in names if NAMED.fullmatch(name) and name != keep.name]
        if old:
            self._exec("rm", "-rf", *old)

    def _ask(
        self, wanted: Sequence[str], headers: Mapping[str, str] | None = None, host: str = "127.0.0.1:"
    ) -> list[Answer]:
        """Ask from inside the edge's container, all in one go.

        Args:
            wanted: port and path of each request.
            host: what is put before them; by default the edge itself.
        """
        mark = uuid.uuid4().hex
        given = [part for name, value in (headers or {}).items() for part in ("--header", f"{name}: {value}")]
        said = self._exec(
            "curl", "--silent", "--show-error", "--max-time", "5", "--write-out", rf"\n{mark} %{{http_code}}\n",
            *given, *(f"http://{host}{one}" for one in wanted),
        )  # fmt: skip
        found = re.findall(rf"(.*?)\n{mark} (\d+)\n", said.stdout.raw, re.DOTALL)
        why = str(said.stderr).strip() or str(said.stdout).strip()
        answers = [Answer(int(status), body or why) for body, status in found]
        return answers + [Answer(0, why)] * (len(wanted) - len(answers))

    @staticmethod
    def _served(answers: Sequence[Answer]) -> str:
        return answers[0].body.strip() if answers[0].good else ""

    def _exec(self, *words: str) -> Completed:
        """Run a command in the edge's container."""
        return execute(self.engine, self.container, words)

    def _log(self) -> list[str]:
        with contextlib.suppress(Exception):
            return list(containers.last_lines(self.engine, self.container, 6))
        return []


def listening(published: Sequence[Mapping[str, object]]) -> int:
    """Return the port inside the edge's container that its service publishes.

    Raises:
        Refused: it publishes none, or several.
    """
    ports = {int(str(port["target"])) for port in published}
    if len(ports) != 1:
        raise Refused(
            "edge-port-unclear",
            "The edge's service must publish exactly one port.",
            looked_at=[str(sorted(ports))],
            next_command="correct `ports:` of the edge's service",
        )
    return ports.pop()
