"""Compose: builds its argv, reads its rendered configuration and translates its errors.

argv is built by pure methods and compared as tuples in tests. `--wait` is never used: its exit code cannot be trusted
(health.py polls instead).
"""

from __future__ import annotations

import functools
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
from conche.engine.rendered import (
    healthcheck_of,
    host_files,
    must_exist,
    plain,
    published_ports,
    readable,
    replicas_of,
    understood,
)
from conche.engine.service import Service
from conche.errors import Refused, Unreachable
from conche.process import Captured, Completed, run, signals_deferred
from conche.secret import Redactor

__all__ = ["Compose", "Configuration", "complaint", "in_order"]

MAKING = 600.0
"""Seconds allowed for creating and starting a service's containers, without any build, pull or wait."""

TRIAL_LABEL = "io.conche.trial"
"""Label of a service; `no` says that no second container of it may run, not even for a trial."""

_UNREAD = re.compile(r"(in variable name|unterminated quoted value) .*")

OLDEST = (2, 20)
"""The oldest Compose accepted; v1 was a different program, which named everything it made differently."""


@dataclass(frozen=True)
class Configuration:
    """A project's rendered Compose files.

    Attributes:
        external_networks: networks that Compose expects to exist and does not create.
        volumes: names of the volumes it creates, as the engine knows them.
        rendered: the whole document, with interpolated values: do not print it unmasked.
    """

    project: str
    services: Mapping[str, Service]
    external_networks: tuple[str, ...]
    volumes: tuple[str, ...]
    rendered: Mapping[str, Any] = field(repr=False, default_factory=dict)

    def needs(self, service: str) -> frozenset[str]:
        """Return the services that a service depends on, under any condition."""
        return frozenset(self.rendered["services"][service].get("depends_on") or ())

    def all_needs(self, service: str) -> frozenset[str]:
        """Return every service that a service depends on, directly or not, under any condition."""
        found: set[str] = set()
        more = self.needs(service)
        while more:
            found |= more
            more = frozenset().union(*(self.needs(one) for one in more & self.services.keys())) - found
        return frozenset(found)


@dataclass(frozen=True)
class Compose:
    """The Compose of one project on one engine.

    Args:
        files: Compose files, absolute.
        variables: what the files interpolate; passed in the environment, never in argv.
        document: a rendered document instead of files; passed on standard input.
        further: variables of the shell, for references that only Compose finds: bare names and included files.
        unread: relies only on what the engine has of the project, because its files cannot be read.
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
        """Return the argv of `docker compose` for this project, followed by `words`."""
        files = [part for file in self.files for part in ("--file", str(file))] or (
            [] if self.unread else ["--file", "-"]
        )
        return ("docker", "compose", *files, "--project-name", self.project, *words)

    def up_alone(self, *services: str, anew: bool = False) -> tuple[str, ...]:
        """Return the argv that creates, starts or recreates services without building, pulling or touching others.

        Args:
            services: none of them depends on another.
            anew: recreate them even if their definitions are unchanged.
        """
        words = ("--progress", "plain", "up", "--detach", "--no-build", "--pull", "never", "--no-deps")
        return self.argv(*words, *(["--force-recreate"] if anew else []), *services)

    def up_whole(self, *services: str, anew: bool = False) -> tuple[str, ...]:
        """Return `up_alone`'s argv, but with dependencies in view, so that the hash is that of `docker compose up`.

        Use it only for services whose dependencies Compose would leave alone, as `up_would` tells.
        """
        force = ("--force-recreate",) if anew else ()
        words = self.argv("--progress", "plain", "up", "--no-build", "--pull", "never", *force)
        return ("sh", "-c", UP_WHOLE, "sh", " ".join(services), *words)

    def create_alone(self, service: str) -> tuple[str, ...]:
        """Return the argv that creates one service's container without starting it."""
        words = [word for word in self.up_alone(service)[:-1] if word != "--detach"]
        return (*words, "--no-start", service)

    def up_beside(self, service: str, count: int) -> tuple[str, ...]:
        """Return the argv that scales a service to `count`: existing containers stay, new ones follow the document."""
        scale = ("--no-recreate", "--scale", f"{service}={count}")
        return (*self.up_alone(service)[:-1], *scale, service)

    def run_once(self, service: str, name: str, command: Sequence[str]) -> tuple[str, ...]:
        """Return the argv that runs one command in a container made like the service's and removed when it ends."""
        words = ("run", "--rm", "--no-deps", "-T", "--name", name, "--entrypoint", command[0], service, *command[1:])
        return self.argv("--progress", "plain", *words)

    def down(self, *, volumes: bool) -> tuple[str, ...]:
        """Return the argv that stops and removes containers and networks; with `volumes` their data too."""
        return self.argv("--progress", "plain", "down", "--remove-orphans", *(["--volumes"] if volumes else []))

    def environment(self) -> dict[str, str]:
        """Return the variables that a Compose process gets in addition to the allow-list."""
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
        services: int = 1,
    ) -> Completed:
        """Run to its end an argv that makes containers, deferring signals.

        If Compose is interrupted, the engine still makes what it was asked for, even after unwinding has looked.

        Args:
            services: how many it makes containers of; each adds to the time that is allowed.
        """
        words = ("sh", "-c", TO_ITS_END, "sh", *argv) if outlives else argv
        with signals_deferred():
            return self.call(words, on_line=on_line, timeout=MAKING * services, outlives=outlives, keep_open=keep_open)

    def configuration(self, *, hashed: bool = True) -> Configuration:
        """Return the files as Compose renders them; `document` is rendered already.

        Args:
            hashed: include the hashes of the definitions, which take one or two more calls.

        Raises:
            Refused: Compose finds the files invalid.
            Unreachable: Compose v2 is not installed.
        """
        rendered = readable(json.loads(self.document or self._answer(("config", "--format", "json"))))
        # Compose hashes a service as it renders it.
        hashes = self._hashes_of(rendered) if hashed else {}
        return _configuration(self.project, understood(rendered, self.project), hashes)

    def _hashes_of(self, rendered: Mapping[str, Any]) -> dict[str, set[str]]:
        """Return service -> the hashes its containers may carry, made with their dependencies in view or without."""
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
        """Return container -> what Compose would do with it; empty if it cannot say, as when an image is missing.

        Args:
            services: consider these and their dependencies; default: all.
            alone: leave the dependencies out.
        """
        words = ("up", "--no-start", "--no-build", "--pull", "never", *(["--no-deps"] if alone else []), *services)
        done = self.call(self.argv("--dry-run", "--progress", "plain", *words), timeout=60)
        said = done.stderr.raw + done.stdout.raw
        return asked_of(said) if done.ok or NOTHING_TO_COPY_INTO in said else {}

    def hashes(self) -> dict[str, str]:
        """Return service -> Compose's hash of its definition, which its containers carry as a label."""
        return _pairs(self._answer(("config", "--hash", "*")))

    def with_every_profile(self) -> Compose:
        """Return this project with every profile enabled; otherwise Compose does not even take down other profiles."""
        return replace(self, variables={**self.variables, "COMPOSE_PROFILES": "*"})

    def every_service(self) -> frozenset[str]:
        """Return all services of the files, including those of inactive profiles."""
        return frozenset(self.with_every_profile()._answer(("config", "--services")).split())

    def _answer(self, words: Sequence[str]) -> str:
        return self._checked(self.call(self.argv(*words), timeout=60))

    def _checked(self, completed: Completed) -> str:
        if not completed.ok:
            raise complaint(completed)
        return completed.stdout.raw


def version(engine: Engine) -> str:
    """Return Compose's version, such as 2.26.1.

    Raises:
        Unreachable: Compose is missing, is v1, or is too old for the options we need.
    """
    completed = run(["docker", "compose", "version", "--short"], extra_env=engine.cli_environment(), timeout=30)
    if not completed.ok:
        raise _no_compose(completed)
    found = completed.stdout.raw.strip().removeprefix("v")
    number = _number(found)
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


@functools.cache
def _release() -> tuple[int, ...]:
    """Return the installed Compose's version as numbers; none if it does not tell."""
    try:
        return _number(version(Engine()))
    except Unreachable:
        return ()


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])


def complaint(completed: Completed) -> Unreachable | Refused:
    """Return the error for files that Compose rejects, in its own words."""
    words = completed.stderr.raw
    if "is not a docker command" in words or "unknown command" in words or "unknown flag: --file" in words:
        return _no_compose(completed)
    return Refused(
        "compose-file-invalid",
        "Compose rejects the environment's files.",
        looked_at=[part for part in completed.argv if part.endswith((".yaml", ".yml"))],
        # Compose repeats the text of a .env line that it cannot read, which may hold a secret.
        evidence=[_UNREAD.sub(r"\1", line) for line in completed.last_lines() if "level=warning" not in line],
        next_command="invoke secrets.render    # writes .env, if stack.yaml has secrets"
        if re.search(r"[/ ]\.env( not found|: no such file)", words)
        else "correct what it names, then: invoke env.config",
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
        for name in in_order(bodies)
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


def in_order(services: Mapping[str, Any]) -> Iterable[str]:
    """Return the services' names, each after its dependencies; Compose itself refuses cycles."""
    needs = {name: sorted(body.get("depends_on") or {}) for name, body in services.items()}
    return [name for name in TopologicalSorter(needs).static_order() if name in services]


def _labels(body: Mapping[str, Any]) -> Mapping[str, Any]:
    labels = body.get("labels") or {}
    return labels if isinstance(labels, Mapping) else dict(str(one).partition("=")[::2] for one in labels)


def _service(name: str, body: Mapping[str, Any], rendered: Mapping[str, Any]) -> Service:
    needs = body.get("depends_on") or {}
    healthcheck = healthcheck_of(body.get("healthcheck"))
    return Service(
        name=name,
        image=body["image"],
        hashes=frozenset(),
        ports=tuple(published_ports(body.get("ports") or [])),
        healthcheck=healthcheck,
        binds=tuple(Path(plain(one["source"])) for one in body.get("volumes") or [] if must_exist(one, _release)),
        secret_files=host_files(body, rendered, "secrets"),
        config_files=host_files(body, rendered, "configs"),
        user=str(body.get("user", "")),
        waits_for=tuple(sorted(n for n, how in needs.items() if how.get("condition") != "service_started")),
        ends=healthcheck is None and not str(body.get("restart", "no")).startswith(("always", "unless-stopped")),
        tries=not (body.get("network_mode") or shares(body) or _labels(body).get(TRIAL_LABEL) == "no"),
        shares=shares(body),
        follows=tuple(sorted(n for n, how in needs.items() if how.get("restart"))),
        replicas=replicas_of(body),
        pulled=body.get("pull_policy") != "never",
    )
