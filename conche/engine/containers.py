"""The containers of a project, as values, and operations on them."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from conche.engine.connection import Engine, translated
from conche.engine.ports import Port
from conche.engine.rendered import Healthcheck
from conche.engine.service import Service
from conche.errors import Unreachable
from conche.process import run

__all__ = [
    "CONTAINER",
    "JOINING",
    "LABEL",
    "STREAMS",
    "Container",
    "asked",
    "definition",
    "end",
    "hold",
    "keep_stopped",
    "last_lines",
    "logged",
    "moment",
    "of_project",
    "one_off",
    "passes_healthcheck",
    "pause",
    "read",
    "remove",
    "restart",
    "resume",
    "start",
    "stop",
    "unpause",
    "users",
]

LABEL = "com.docker.compose"
"""Prefix of the labels that Compose puts on what it makes."""

STREAMS = ("stdout", "stderr")

CONTAINER = "container:"
"""Prefix of the id of a container whose network, processes or memory another one shares."""

JOINING = ("NetworkMode", "PidMode", "IpcMode")
"""Keys of the engine's settings of a container that may name such an id."""

RETRIES = 3
"""Consecutive failed checks that make a container unhealthy, unless its healthcheck says otherwise."""


@dataclass(frozen=True)
class Container:
    """A container at one moment.

    Attributes:
        state: created, running, paused, restarting, exited or dead.
        health: healthy, unhealthy, starting (not known yet, as after a pause), or none: it has no
            healthcheck, or has ended.
        image: the reference it was made from; `image_id` is what that meant at the time.
        config_hash: Compose's hash of the definition it was made from.
        ports: published ports, as `127.0.0.1:8001->8000/tcp`; empty unless it runs.
        publishes: ports of the host that it takes whenever it runs.
        created_at: None if the engine does not say.
        started_at: None if it never ran.
        healthcheck: the command of its healthcheck, from the Compose file or the image.
        healthcheck_timeout: seconds allowed for it.
        stop_timeout: seconds it is given to end.
        log_driver: where its output goes, such as `json-file`.
        binds: files and folders of the host that are mounted in it.
        goes_when_stopped: the engine removes it as soon as it stops (`docker run --rm`).
        restarts: how often the engine has restarted it.
        restart_policy: when the engine restarts it: always, unless-stopped, on-failure, or no.
        joins: ids of the containers in whose network, processes or memory it is.
    """

    id: str
    name: str
    project: str
    service: str
    state: str
    health: str
    image: str
    image_id: str
    config_hash: str
    exit_code: int = 0
    oom_killed: bool = False
    restarts: int = 0
    ports: tuple[str, ...] = ()
    publishes: tuple[Port, ...] = ()
    created_at: datetime | None = None
    started_at: datetime | None = None
    revision: str = ""
    health_log: tuple[str, ...] = ()
    error: str = ""
    healthcheck: tuple[str, ...] = ()
    healthcheck_timeout: float = 30.0
    stop_timeout: int = 10
    log_driver: str = ""
    binds: tuple[str, ...] = ()
    goes_when_stopped: bool = False
    restart_policy: str = "no"
    joins: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def half_made(self) -> bool:
        """Whether Compose was killed while creating it: it still has its predecessor's id before its name."""
        return self.state == "created" and re.match(r"[0-9a-f]{12}_", self.name) is not None

    @property
    def starts(self) -> bool:
        """Whether it runs and the engine does not know yet if it is healthy."""
        return self.state == "running" and self.health == "starting"

    @property
    def follows(self) -> tuple[str, ...]:
        """The services with which Compose restarts it; none if it was made without its dependencies in view."""
        needs = (one.split(":") for one in self.labels.get(f"{LABEL}.depends_on", "").split(","))
        return tuple(name for name, *how in needs if how[1:] == ["true"])


def of_project(engine: Engine, project: str) -> tuple[Container, ...]:
    """Return a Compose project's containers, running or not, sorted by service, without one-off containers."""
    return _labelled(engine, project, oneoff=False)


def one_off(engine: Engine, project: str) -> tuple[Container, ...]:
    """Return the containers that `compose run` has made in a project."""
    return _labelled(engine, project, oneoff=True)


def _labelled(engine: Engine, project: str, *, oneoff: bool) -> tuple[Container, ...]:
    labels = [f"{LABEL}.project={project}", f"{LABEL}.oneoff={oneoff}"]
    with translated(engine.address):
        found = engine.client.api.containers(all=True, filters={"label": labels})
    containers = [read(engine, container["Id"]) for container in found]
    return tuple(sorted((c for c in containers if c), key=lambda container: (container.service, container.name)))


def read(engine: Engine, container_id: str) -> Container | None:
    """Inspect one container; None if it is gone."""
    import docker.errors

    with translated(engine.address):
        try:
            return parse(engine.client.api.inspect_container(container_id))
        except docker.errors.NotFound:
            return None


def parse(attributes: Mapping[str, Any]) -> Container:
    """Build a container from the engine's answer to an inspect."""
    state, config = attributes["State"], attributes["Config"]
    labels = config.get("Labels") or {}
    health = state.get("Health") or {}
    healthcheck = config.get("Healthcheck") or {}
    return Container(
        id=attributes["Id"],
        name=attributes["Name"].lstrip("/"),
        project=labels.get(f"{LABEL}.project", ""),
        service=labels.get(f"{LABEL}.service", ""),
        state=state["Status"],
        health=_health(state, int(healthcheck.get("Retries") or RETRIES)),
        image=config["Image"],
        image_id=attributes["Image"],
        config_hash=labels.get(f"{LABEL}.config-hash", ""),
        exit_code=state.get("ExitCode", 0),
        oom_killed=state.get("OOMKilled", False),
        restarts=attributes.get("RestartCount", 0),
        ports=_ports(attributes.get("NetworkSettings", {}).get("Ports") or {}),
        publishes=_publishes((attributes.get("HostConfig") or {}).get("PortBindings") or {}),
        created_at=moment(attributes.get("Created", "")),
        started_at=moment(state.get("StartedAt", "")),
        revision=labels.get("org.opencontainers.image.revision", ""),
        health_log=_last_words(health.get("Log") or []),
        error=state.get("Error", ""),
        healthcheck=_healthcheck(healthcheck.get("Test") or []),
        healthcheck_timeout=(healthcheck.get("Timeout") or 30e9) / 1e9,
        stop_timeout=10 if (said := config.get("StopTimeout")) is None else said,
        log_driver=((attributes.get("HostConfig") or {}).get("LogConfig") or {}).get("Type", ""),
        binds=tuple(mount["Source"] for mount in attributes.get("Mounts") or () if mount.get("Type") == "bind"),
        goes_when_stopped=bool((attributes.get("HostConfig") or {}).get("AutoRemove")),
        restart_policy=((attributes.get("HostConfig") or {}).get("RestartPolicy") or {}).get("Name") or "no",
        joins=_joins(attributes.get("HostConfig") or {}),
        labels=labels,
    )


def last_lines(engine: Engine, container_id: str, count: int = 20) -> tuple[str, ...]:
    """Return the last lines of a container's log."""
    with translated(engine.address):
        log: bytes = engine.client.api.logs(container_id, tail=count)
    return tuple(log.decode(errors="replace").splitlines())


def logged(engine: Engine, container_id: str, stream: str) -> Iterator[bytes]:
    """Yield all that a container has written to one of `STREAMS`, in pieces split anywhere."""
    with translated(engine.address):
        yield from engine.client.api.logs(
            container_id, stdout=stream == "stdout", stderr=stream == "stderr", stream=True, follow=False
        )


def passes_healthcheck(engine: Engine, container: Container) -> bool:
    """Run the container's own healthcheck now.

    The engine first runs it after a whole interval, 30 s by default; running it ourselves shows within a second that
    a container works, on every engine (`start_interval` needs engine 25).
    """
    if not container.healthcheck:
        return False
    argv = ["docker", "exec", container.id, *container.healthcheck]
    try:
        return run(argv, extra_env=engine.cli_environment(), timeout=container.healthcheck_timeout).ok
    except Unreachable:
        return False


def remove(engine: Engine, container_id: str) -> None:
    """End and remove a container but keep its named volumes; it may be gone already."""
    import docker.errors

    with translated(engine.address):
        try:
            engine.client.api.remove_container(container_id, force=True, v=True)
        except docker.errors.NotFound:
            return


def stop(engine: Engine, container: Container) -> None:
    """Stop a container without removing it, giving it its own grace period; it may be gone already."""
    import docker.errors

    with translated(engine.address):
        try:
            # Unless it is told how long that takes, the SDK gives up on the engine after a minute.
            engine.client.api.stop(container.id, timeout=container.stop_timeout)
        except docker.errors.NotFound:
            return


def start(engine: Engine, container_id: str) -> None:
    """Start a stopped container or unpause a paused one; it may be running already."""
    with translated(engine.address):
        api = engine.client.api
        # The engine refuses to start a paused container.
        (api.unpause if api.inspect_container(container_id)["State"]["Paused"] else api.start)(container_id)


def keep_stopped(engine: Engine, container_id: str) -> None:
    """Keep a stopped container stopped when the engine starts, whatever its restart policy was."""
    policy: Any = {"Name": "no"}
    with translated(engine.address):
        engine.client.api.update_container(container_id, restart_policy=policy)


def end(engine: Engine, container_id: str) -> None:
    """Kill a container at once without removing it; it may be stopped or gone already."""
    import docker.errors

    with translated(engine.address), contextlib.suppress(docker.errors.NotFound):
        try:
            engine.client.api.kill(container_id)
        except docker.errors.APIError as error:
            if error.status_code != 409:
                raise


def hold(engine: Engine, container_id: str) -> None:
    """Stop the first process of a container, and no other, until it is continued or ended."""
    with translated(engine.address):
        engine.client.api.kill(container_id, "SIGSTOP")


def pause(engine: Engine, container_id: str) -> None:
    """Freeze every process of a container."""
    with translated(engine.address):
        engine.client.api.pause(container_id)


def unpause(engine: Engine, container_id: str) -> None:
    """Unpause a container."""
    with translated(engine.address):
        engine.client.api.unpause(container_id)


def resume(engine: Engine, found: Iterable[Container]) -> None:
    """Unpause the paused ones of these containers, because Compose can neither start nor skip them."""
    for one in found:
        if one.state == "paused":
            unpause(engine, one.id)


def definition(engine: Engine, container: Container) -> Service:
    """Derive a service from its container, as far as judging its health needs."""
    with translated(engine.address):
        config = engine.client.api.inspect_container(container.id)["Config"]
    body = config.get("Healthcheck") or {}
    checked = Healthcheck(
        interval=(body.get("Interval") or 30e9) / 1e9,
        timeout=(body.get("Timeout") or 30e9) / 1e9,
        retries=body.get("Retries") or RETRIES,
        start_period=(body.get("StartPeriod") or 0) / 1e9,
    )
    has = bool(container.healthcheck)
    return Service(container.service, container.image, frozenset(), healthcheck=checked if has else None)


def restart(engine: Engine, container: Container) -> None:
    """Restart a container, giving it its own grace period to stop."""
    with translated(engine.address):
        engine.client.api.restart(container.id, timeout=container.stop_timeout)


def asked(engine: Engine, container: Container) -> Container:
    """Return the container; if the engine still reports "starting", run its healthcheck now."""
    passes = container.starts and passes_healthcheck(engine, container)
    return replace(container, health="healthy") if passes else container


def users(engine: Engine) -> dict[str, str]:
    """Return image id -> the name of a container made from it, in any state and of any project."""
    with translated(engine.address):
        found = engine.client.api.containers(all=True)
    return {one["ImageID"]: one["Names"][0].lstrip("/") for one in found if one["Names"]}


def _health(state: Mapping[str, Any], retries: int) -> str:
    """Return what the healthcheck found; `starting` if it has not run, and none of what has ended.

    Whatever ends with a healthcheck is unhealthy to the engine, be it a one-shot that has done all that it had to.
    The engine reports a paused container as unhealthy until the first check after the pause. A container that is
    really unhealthy has failed as many checks in a row as it takes.
    Source: CloseMonitorChannel in https://github.com/moby/moby/blob/v20.10.24/container/health.go
    """
    if state["Status"] in ("exited", "dead"):
        return "none"
    health = state.get("Health") or {}
    said = str(health.get("Status") or "none")
    alive = state["Status"] in ("running", "paused")
    unasked = said == "unhealthy" and alive and int(health.get("FailingStreak") or 0) < retries
    return "starting" if unasked else said


def _healthcheck(test: Sequence[str]) -> tuple[str, ...]:
    """Return a healthcheck's argv, as the engine runs it."""
    kind, *words = test or ["NONE"]
    if kind == "CMD":
        return tuple(words)
    return ("/bin/sh", "-c", *words) if kind == "CMD-SHELL" else ()


def _last_words(log: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return the last output line of each failed check, without duplicates."""
    said = [entry["Output"].strip().splitlines()[-1:] for entry in log if entry["ExitCode"] != 0]
    return tuple(dict.fromkeys(line for lines in said for line in lines))


def _ports(published: Mapping[str, Sequence[Mapping[str, str]] | None]) -> tuple[str, ...]:
    return tuple(
        f"{binding['HostIp']}:{binding['HostPort']}->{inside}"
        for inside, bindings in sorted(published.items())
        for binding in bindings or []
    )


def _publishes(bindings: Mapping[str, Sequence[Mapping[str, str]] | None]) -> tuple[Port, ...]:
    """Return fixed ports only: a port chosen by the engine conflicts with nobody's."""
    return tuple(
        Port(one.get("HostIp", ""), int(one["HostPort"]), inside.partition("/")[2] or "tcp")
        for inside, several in sorted(bindings.items())
        for one in several or []
        if one.get("HostPort", "").isdigit() and one["HostPort"] != "0"
    )


def _joins(host: Mapping[str, Any]) -> tuple[str, ...]:
    modes = (str(host.get(key) or "") for key in JOINING)
    return tuple(dict.fromkeys(mode.removeprefix(CONTAINER) for mode in modes if mode.startswith(CONTAINER)))


def moment(text: str) -> datetime | None:
    """Parse the engine's RFC 3339 time with nanoseconds; None for year 1, which means never."""
    match = re.match(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?)", text)
    if not match or text.startswith("0001"):
        return None
    return datetime.fromisoformat(match[1]).replace(tzinfo=UTC)
