"""Compose: its argv, its rendered configuration, and its complaints translated.

argv is built by pure methods and compared as tuples in tests. Compose is never asked to wait: its exit code after
`--wait` cannot be trusted (health.py polls instead).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from conche.engine import containers
from conche.engine.connection import Engine
from conche.engine.hashes import (
    NOTHING_TO_COPY_INTO,
    TO_ITS_END,
    UP_WHOLE,
    asked_of,
    depend,
    resolved,
    shares,
    without_dependencies,
)
from conche.engine.ports import Port
from conche.engine.rendered import (
    Healthcheck,
    healthcheck_of,
    host_files,
    must_exist,
    published_ports,
    replicas_of,
    understood,
)
from conche.errors import Refused, Unreachable
from conche.process import Captured, Completed, run, signals_deferred
from conche.secret import Redactor

__all__ = ["Compose", "Configuration", "Healthcheck", "Service", "complaint"]

MAKING = 600.0
"""Seconds to make and start containers, in which nothing is built, pulled or waited for."""

OLDEST = (2, 20)
"""The oldest Compose that is taken; v1 was another program, with other names for everything it made."""


@dataclass(frozen=True)
class Service:
    """One service as Compose renders it.

    Attributes:
        image: reference, as the file has it.
        ports: what it publishes.
        hashes: Compose's own hashes of the definition (hashes.py); a container carries one of them. There are two where
            the service depends on others: Compose leaves dependencies out of the hash when it starts a service alone.
        binds: host folders that are mounted and that nobody makes.
        secret_files: host files of its secrets.
        config_files: host files of its configs.
        user: whom it runs as, as the file says; empty for what the image says.
        waits_for: services that must be healthy, or done, before it starts.
        ends: it is a one-shot: without healthcheck, and not started again when it has ended well.
        completes: another service waits for its end.
        tries: whether a second one may run beside it, for a trial.
        shares: services whose containers it uses the network, processes, memory or volumes of.
        replicas: how many containers it is to have; None where only its containers were looked at.
    """

    name: str
    image: str
    hashes: frozenset[str]
    ports: tuple[Port, ...] = ()
    healthcheck: Healthcheck | None = None
    binds: tuple[Path, ...] = ()
    secret_files: tuple[Path, ...] = ()
    config_files: tuple[Path, ...] = ()
    user: str = ""
    waits_for: tuple[str, ...] = ()
    ends: bool = False
    completes: bool = False
    tries: bool = True
    shares: tuple[str, ...] = ()
    replicas: int | None = None


@dataclass(frozen=True)
class Configuration:
    """A project's rendered Compose files.

    Attributes:
        external_networks: networks that Compose wants to find and does not make.
        volumes: names of the volumes it makes, as the engine knows them.
        rendered: the whole document, with interpolated values: do not print it unmasked.
    """

    project: str
    services: Mapping[str, Service]
    external_networks: tuple[str, ...]
    volumes: tuple[str, ...]
    rendered: Mapping[str, Any] = field(repr=False, default_factory=dict)

    def needs(self, service: str) -> frozenset[str]:
        """What a service depends on, in whatever way."""
        return frozenset(self.rendered["services"][service].get("depends_on") or ())


@dataclass(frozen=True)
class Compose:
    """The Compose of one project on one engine.

    Args:
        files: Compose files, absolute.
        variables: what the files interpolate; handed on in the environment, never in argv.
        document: a rendered document instead of files; handed on over standard input.
        further: those of the shell, for what only Compose finds: bare names, and files that these files take in.
        unread: it goes by what the engine has of the project alone, since its files cannot be read.
    """

    engine: Engine
    project: str
    files: tuple[Path, ...]
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)
    redact: Redactor = field(default_factory=Redactor, repr=False)
    document: bytes = field(default=b"", repr=False)
    further: Mapping[str, str] = field(default_factory=dict, repr=False)
    unread: bool = False

    def argv(self, *words: str) -> tuple[str, ...]:
        """`docker compose` for this project, with `words`."""
        files = [part for file in self.files for part in ("--file", str(file))] or (
            [] if self.unread else ["--file", "-"]
        )
        return ("docker", "compose", *files, "--project-name", self.project, *words)

    def up_alone(self, service: str, *, anew: bool = False) -> tuple[str, ...]:
        """Create, start or recreate one service; Compose neither builds nor pulls, and leaves the others alone.

        Args:
            anew: recreate it also where its definition is the same.
        """
        words = ("--progress", "plain", "up", "--detach", "--no-build", "--pull", "never", "--no-deps")
        return self.argv(*words, *(["--force-recreate"] if anew else []), service)

    def up_whole(self, service: str, *, anew: bool = False) -> tuple[str, ...]:
        """The same, made with what it depends on in sight, so that its hash is the one of `docker compose up`.

        That is for services of which Compose leaves the others alone, which `up_would` tells.
        """
        force = ("--force-recreate",) if anew else ()
        words = self.argv("--progress", "plain", "up", "--no-build", "--pull", "never", *force)
        return ("sh", "-c", UP_WHOLE, "sh", service, *words)

    def create_alone(self, service: str) -> tuple[str, ...]:
        """Create one service's container, and do not start it."""
        words = [word for word in self.up_alone(service)[:-1] if word != "--detach"]
        return (*words, "--no-start", service)

    def up_beside(self, service: str, count: int) -> tuple[str, ...]:
        """Have `count` containers of a service, old ones left as they are and new ones made as the document says."""
        scale = ("--no-recreate", "--scale", f"{service}={count}")
        return (*self.up_alone(service)[:-1], *scale, service)

    def run_once(self, service: str, name: str, command: Sequence[str]) -> tuple[str, ...]:
        """Run one command in a container of its own, made as a service is, that goes when it ends."""
        words = ("run", "--rm", "--no-deps", "-T", "--name", name, "--entrypoint", command[0], service, *command[1:])
        return self.argv("--progress", "plain", *words)

    def down(self, *, volumes: bool) -> tuple[str, ...]:
        """Stop and remove containers and networks; with `volumes` their data too."""
        return self.argv("--progress", "plain", "down", "--remove-orphans", *(["--volumes"] if volumes else []))

    def environment(self) -> dict[str, str]:
        """What a Compose process gets beside the allow-list."""
        return {**self.further, **self.variables, **self.engine.cli_environment()}

    def call(
        self,
        argv: Sequence[str],
        *,
        on_line: Callable[[Captured], None] | None = None,
        timeout: float | None = None,
        outlives: bool = False,
        keep_open: Sequence[int] = (),
    ) -> Completed:
        """Run one of the argv above."""
        return run(
            argv,
            stdin=self.document,
            extra_env=self.environment(),
            redact=self.redact,
            on_line=on_line,
            timeout=timeout,
            outlives=outlives,
            keep_open=keep_open,
        )

    def make(
        self,
        argv: Sequence[str],
        *,
        on_line: Callable[[Captured], None] | None = None,
        outlives: bool = False,
        keep_open: Sequence[int] = (),
    ) -> Completed:
        """Run one of those that make containers, whole: a signal waits for its end.

        What a Compose that is broken off has asked for the engine goes on making, after an unwinding has looked.
        """
        words = ("sh", "-c", TO_ITS_END, "sh", *argv) if outlives else argv
        with signals_deferred():
            return self.call(words, on_line=on_line, timeout=MAKING, outlives=outlives, keep_open=keep_open)

    def configuration(self, *, hashed: bool = True) -> Configuration:
        """The files as Compose understands them; a document is rendered already.

        Args:
            hashed: with the hashes of the definitions, which cost another call or two.

        Raises:
            Refused: Compose finds the files invalid.
            Unreachable: there is no Compose v2.
        """
        rendered = json.loads(self.document or self._answer(("config", "--format", "json")))
        # Compose hashes a service as it renders it.
        hashes = self._hashes_of(rendered) if hashed else {}
        return _configuration(self.project, understood(rendered, self.project), hashes)

    def _hashes_of(self, rendered: Mapping[str, Any]) -> dict[str, set[str]]:
        """Service -> the hashes that a container of it may carry, made with what it depends on in sight or without."""
        from concurrent.futures import ThreadPoolExecutor

        found: Sequence[containers.Container] = ()
        if any(map(shares, rendered["services"].values())):
            found = containers.of_project(self.engine, self.project)
        document = resolved(rendered, {one.service: one.id for one in reversed(found)})
        forms = [document, *([without_dependencies(document)] if depend(rendered) else [])]
        with ThreadPoolExecutor(len(forms)) as pool:
            answers = pool.map(lambda form: replace(self, files=(), document=form).hashes(), forms)
            hashes: dict[str, set[str]] = {}
            for name, value in (pair for answer in answers for pair in answer.items()):
                hashes.setdefault(name, set()).add(value)
        return hashes

    def up_would(self, *services: str, alone: bool = False) -> Mapping[str, Collection[str]]:
        """Container -> what Compose would do with it; nothing where it cannot say, as when an image is missing.

        Args:
            services: of these, and what they depend on; default: of all.
            alone: without what they depend on.
        """
        words = ("up", "--no-start", "--no-build", "--pull", "never", *(["--no-deps"] if alone else []), *services)
        done = self.call(self.argv("--dry-run", "--progress", "plain", *words), timeout=60)
        said = done.stderr.raw + done.stdout.raw
        return asked_of(said) if done.ok or NOTHING_TO_COPY_INTO in said else {}

    def hashes(self) -> dict[str, str]:
        """Service -> Compose's hash of its definition, which a container made from it carries as a label."""
        return _pairs(self._answer(("config", "--hash", "*")))

    def with_every_profile(self) -> Compose:
        """The same project, with the services of all profiles; Compose does not even take down those of others."""
        return replace(self, variables={**self.variables, "COMPOSE_PROFILES": "*"})

    def every_service(self) -> frozenset[str]:
        """The services of the files, those of profiles that are not wanted too."""
        return frozenset(self.with_every_profile()._answer(("config", "--services")).split())

    def _answer(self, words: Sequence[str]) -> str:
        return self._checked(self.call(self.argv(*words), timeout=60))

    def _checked(self, completed: Completed) -> str:
        if not completed.ok:
            raise complaint(completed)
        return completed.stdout.raw


def version(engine: Engine) -> str:
    """Compose's version, such as 2.26.1.

    Raises:
        Unreachable: there is no Compose, only v1, or one that lacks options which are needed.
    """
    completed = run(["docker", "compose", "version", "--short"], extra_env=engine.cli_environment(), timeout=30)
    if not completed.ok:
        raise _no_compose(completed)
    found = completed.stdout.raw.strip().removeprefix("v")
    number = tuple(int(part) for part in re.findall(r"\d+", found)[:2])
    if number < (2,):
        raise _no_compose(completed)
    if number < OLDEST:
        raise Unreachable(
            "compose-too-old",
            f"Compose {found} is too old: {'.'.join(map(str, OLDEST))} or later is needed.",
            looked_at=["docker compose version"],
            next_command="scripts/install-engine\ninvoke doctor",
        )
    return found


def complaint(completed: Completed) -> Unreachable | Refused:
    words = completed.stderr.raw
    if "is not a docker command" in words or "unknown command" in words or "unknown flag: --file" in words:
        return _no_compose(completed)
    return Refused(
        "compose-file-invalid",
        "Compose does not accept the environment's files.",
        looked_at=[part for part in completed.argv if part.endswith((".yaml", ".yml"))],
        evidence=completed.last_lines(),
        next_command="correct what it names, then: invoke env.config",
    )


def _no_compose(completed: Completed) -> Unreachable:
    return Unreachable(
        "compose-v2-missing",
        "Compose v2 (`docker compose`) is not installed; Compose v1 (`docker-compose`) is not enough.",
        looked_at=["docker compose version"],
        evidence=completed.last_lines(3),
        next_command="scripts/install-engine\ninvoke doctor",
    )


def _pairs(text: str) -> dict[str, str]:
    return dict(line.split() for line in text.splitlines() if line)


def _configuration(project: str, rendered: Mapping[str, Any], hashes: Mapping[str, Collection[str]]) -> Configuration:
    bodies = rendered["services"]
    completing = {
        name
        for body in bodies.values()
        for name, how in (body.get("depends_on") or {}).items()
        if how.get("condition") == "service_completed_successfully"
    }
    services = {
        name: replace(
            _service(name, bodies[name], rendered),
            hashes=frozenset(hashes.get(name, ())),
            completes=name in completing,
        )
        for name in _in_order(bodies)
    }
    networks = (rendered.get("networks") or {}).values()
    volumes = (rendered.get("volumes") or {}).values()
    return Configuration(
        project=project,
        services=services,
        external_networks=tuple(network["name"] for network in networks if network.get("external")),
        volumes=tuple(volume["name"] for volume in volumes if not volume.get("external")),
        rendered=rendered,
    )


def _in_order(services: Mapping[str, Any]) -> Iterable[str]:
    """The names of the services, each after those it depends on; Compose refuses cycles itself."""
    needs = {name: sorted(body.get("depends_on") or {}) for name, body in services.items()}
    return [name for name in TopologicalSorter(needs).static_order() if name in services]


def _service(name: str, body: Mapping[str, Any], rendered: Mapping[str, Any]) -> Service:
    needs = body.get("depends_on") or {}
    healthcheck = healthcheck_of(body.get("healthcheck"))
    return Service(
        name=name,
        image=body["image"],
        hashes=frozenset(),
        ports=tuple(published_ports(body.get("ports") or [])),
        healthcheck=healthcheck,
        binds=tuple(Path(mount["source"]) for mount in body.get("volumes") or [] if must_exist(mount)),
        secret_files=host_files(body, rendered, "secrets"),
        config_files=host_files(body, rendered, "configs"),
        user=str(body.get("user", "")),
        waits_for=tuple(sorted(n for n, how in needs.items() if how.get("condition") != "service_started")),
        ends=healthcheck is None and not str(body.get("restart", "no")).startswith(("always", "unless-stopped")),
        tries=not (body.get("network_mode") or shares(body)),
        shares=shares(body),
        replicas=replicas_of(body),
    )
