"""Docker Swarm: stacks, their services and tasks, and what they are given; nothing here decides.

`docker stack deploy` returns before anything has converged, and ends with 0 even where Swarm rolls the update back by
itself. So services are asked, by UpdateStatus and by the images that run.
Source: https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Service
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from conche.engine.connection import Engine, translated
from conche.errors import Unreachable
from conche.process import Captured, Completed, run

__all__ = [
    "Replicated",
    "deploy",
    "provide",
    "remove",
    "replicate",
    "require",
    "services",
    "sweep",
    "wait_gone",
    "wait_settled",
]

STACK = "com.docker.stack.namespace"
"""Label with which Docker marks what belongs to a stack."""

OURS = "io.conche.content"
"""Label with which we mark the secrets and configurations we have made."""


@dataclass(frozen=True)
class Replicated:
    """A service of a stack at one moment.

    Attributes:
        name: without the stack's.
        wanted: tasks that shall run.
        running: tasks that run the wanted image and definition.
        others: tasks that still run an earlier one.
        update: UpdateStatus of the service: updating, completed, paused, rollback_…; empty where there was no update.
        message: what Swarm says of it.
        errors: what the newest failed tasks said.
    """

    id: str
    name: str
    image: str
    wanted: int
    running: int
    others: int
    update: str
    message: str
    errors: tuple[str, ...]
    labels: Mapping[str, str]

    @property
    def settled(self) -> bool:
        """Everything that shall run does, and nothing else."""
        return self.running == self.wanted and not self.others and self.update in ("", "completed")

    @property
    def reverted(self) -> bool:
        """Swarm has given the update up."""
        return self.update.startswith("rollback") or self.update == "paused"


def require(engine: Engine) -> None:
    """See that the engine manages a swarm.

    Raises:
        Unreachable: it does not.
    """
    with translated(engine.address):
        state = engine.client.info().get("Swarm") or {}
    if not state.get("ControlAvailable"):
        raise Unreachable(
            "no-swarm",
            "The engine is no manager of a swarm.",
            looked_at=[f"{engine.address}: {state.get('LocalNodeState', 'unknown')}"],
            next_command="docker swarm init",
        )


def deploy(
    engine: Engine, stack: str, document: bytes, extra_env: Mapping[str, str], on_line: Callable[[Captured], None]
) -> Completed:
    """Hand a document to Swarm; that is all that the exit code tells."""
    argv = (
        "docker",
        "stack",
        "deploy",
        "--compose-file",
        "-",
        "--prune",
        "--resolve-image",
        "never",
        "--with-registry-auth",
    )
    environment = {**engine.cli_environment(), **extra_env}
    return run([*argv, stack], stdin=document, extra_env=environment, on_line=on_line, timeout=300)


def remove(engine: Engine, stack: str) -> None:
    """Remove a stack with its services and networks; its volumes stay."""
    run(["docker", "stack", "rm", stack], extra_env=engine.cli_environment(), timeout=120).require(f"removing {stack}")


def services(engine: Engine, stack: str) -> tuple[Replicated, ...]:
    """The services of a stack, by name."""
    api: Any = engine.client.api
    with translated(engine.address):
        found = api.services(filters={"label": f"{STACK}={stack}"})
        tasks = api.tasks(filters={"label": f"{STACK}={stack}"})
    return tuple(sorted((_service(one, tasks, stack) for one in found), key=lambda one: one.name))


def _service(said: Mapping[str, Any], tasks: Sequence[Mapping[str, Any]], stack: str) -> Replicated:
    spec = said["Spec"]
    template = spec["TaskTemplate"]
    own = [task for task in tasks if task.get("ServiceID") == said["ID"]]
    running = [t for t in own if t["Status"]["State"] == "running" and t["DesiredState"] == "running"]
    force, content = template.get("ForceUpdate", 0), template["ContainerSpec"]
    current = [t for t in running if t["Spec"]["ContainerSpec"] == content and t["Spec"].get("ForceUpdate", 0) == force]
    failed = sorted(
        (t for t in own if t["Status"]["State"] in ("failed", "rejected")),
        key=lambda t: str(t["UpdatedAt"]),
        reverse=True,
    )
    status = said.get("UpdateStatus") or {}
    return Replicated(
        id=said["ID"],
        name=spec["Name"].removeprefix(f"{stack}_"),
        image=content["Image"],
        wanted=int(((spec["Mode"].get("Replicated")) or {}).get("Replicas", 1)),
        running=len(current),
        others=len([t for t in own if t["Status"]["State"] == "running"]) - len(current),
        update=status.get("State", ""),
        message=status.get("Message", ""),
        errors=tuple(dict.fromkeys(str(t["Status"].get("Err", "")) for t in failed[:3] if t["Status"].get("Err"))),
        labels=content.get("Labels") or {},
    )


def wait_gone(engine: Engine, stack: str, seconds: float, pause: Callable[[float], None] = time.sleep) -> bool:
    """Wait until no container and no network of a stack is left on this node; whether that came in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with translated(engine.address):
            left = {"label": f"{STACK}={stack}"}
            if not (engine.client.api.containers(all=True, filters=left) or engine.client.api.networks(filters=left)):
                return True
        pause(0.3)
    return False


def wait_settled(
    engine: Engine, stack: str, service: str, seconds: float, pause: Callable[[float], None] = time.sleep
) -> bool:
    """Wait until a service has as many tasks as are wanted; whether that came in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if any(one.settled for one in services(engine, stack) if one.name == service):
            return True
        pause(0.3)
    return False


def replicate(engine: Engine, service: str, replicas: int) -> None:
    """Change how many tasks of a service shall run."""
    argv = ["docker", "service", "scale", "--detach", f"{service}={replicas}"]
    run(argv, extra_env=engine.cli_environment(), timeout=60).require(f"scaling {service}")


def provide(engine: Engine, stack: str, kind: str, key: str, content: bytes) -> str:
    """See that Swarm has a secret or a configuration of this content; its name, which the content decides.

    Args:
        kind: `secret` or `config`. Neither can be changed in Swarm, so another content is another one.
    """
    name = f"{stack}_{key}-{hashlib.sha256(content).hexdigest()[:12]}"[:64]
    api: Any = engine.client.api
    labels = {OURS: stack}
    with translated(engine.address):
        if kind == "secret":
            if not any(one["Spec"]["Name"] == name for one in api.secrets(filters={"name": name})):
                api.create_secret(name, content, labels=labels)
        elif not any(one["Spec"]["Name"] == name for one in api.configs(filters={"name": name})):
            api.create_config(name, content, labels=labels)
    return name


def sweep(engine: Engine, stack: str, keep: frozenset[str]) -> None:
    """Remove secrets and configurations that we made and nothing uses; Swarm itself refuses those in use."""
    import docker.errors

    api: Any = engine.client.api
    with translated(engine.address):
        made = {"label": f"{OURS}={stack}"}
        for one in api.secrets(filters=made):
            if one["Spec"]["Name"] not in keep:
                with contextlib.suppress(docker.errors.APIError):
                    api.remove_secret(one["ID"])
        for one in api.configs(filters=made):
            if one["Spec"]["Name"] not in keep:
                with contextlib.suppress(docker.errors.APIError):
                    api.remove_config(one["ID"])
