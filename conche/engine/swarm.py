"""Docker Swarm: stacks, their services and tasks, and their secrets and configurations; makes no decisions.

`docker stack deploy` returns before anything has converged, and exits 0 even if Swarm rolls the update back by itself.
So the services themselves are inspected: their UpdateStatus and the images that run.
Source: https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Service
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from conche.engine.connection import Engine, translated
from conche.errors import Unreachable
from conche.process import Captured, Completed, run

__all__ = [
    "OURS",
    "STACK",
    "Node",
    "Replicated",
    "deploy",
    "nodes",
    "observed",
    "others",
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
"""Label with which Docker marks whatever belongs to a stack."""

OURS = "io.conche.content"
"""Label with which we mark the secrets and configurations that we make."""


REMOVING = 30.0
"""Seconds during which the removal of a stack is retried."""

FOR_EVER = "any"
"""Restart policy of tasks that are restarted however they end."""


@dataclass(frozen=True)
class Replicated:
    """A service of a stack at one moment.

    Attributes:
        name: without the stack's name.
        wanted: tasks that should run.
        running: tasks that run the wanted image and definition.
        others: tasks that still run an earlier one.
        update: UpdateStatus of the service: updating, completed, paused, rollback_…; empty if there was no update.
        message: Swarm's message about the update.
        errors: errors of the latest tasks that failed or found no node.
        done: tasks that have ended successfully and are not restarted.
        broken: a task has failed and is not restarted.
        everywhere: it has one task on each node, instead of a number of replicas.
        unreachable: nodes that do not answer, with tasks of it that nobody can stop.
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
    done: int = 0
    broken: bool = False
    everywhere: bool = False
    unreachable: tuple[str, ...] = ()

    @property
    def settled(self) -> bool:
        """Whether every wanted task runs or has ended successfully, and no other task runs."""
        there = self.running + self.done == self.wanted and not self.broken
        return there and not self.others and self.update in ("", "completed")

    @property
    def reverted(self) -> bool:
        """Whether Swarm has abandoned the update."""
        return self.update.startswith("rollback") or self.update == "paused"


@dataclass(frozen=True)
class Node:
    """A machine of a swarm.

    Attributes:
        up: whether it answers the managers; otherwise the last report of its tasks cannot be relied on.
        role: `manager` or `worker`.
        labels: what placement constraints call `node.labels`.
    """

    name: str
    address: str
    up: bool
    role: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


def require(engine: Engine) -> None:
    """Ensure that the engine manages a swarm.

    Raises:
        Unreachable: it does not.
    """
    with translated(engine.address):
        state = engine.client.info().get("Swarm") or {}
    if not state.get("ControlAvailable"):
        raise Unreachable(
            "no-swarm",
            "The engine is not a swarm manager.",
            looked_at=[f"{engine.address}: {state.get('LocalNodeState', 'unknown')}"],
            next_command="docker swarm init",
        )


def deploy(
    engine: Engine, stack: str, document: bytes, extra_env: Mapping[str, str], on_line: Callable[[Captured], None]
) -> Completed:
    """Hand a document to Swarm; the exit code says no more than that it was accepted."""
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


def remove(engine: Engine, stack: str, pause: Callable[[float], None] = time.sleep) -> None:
    """Remove a stack with its services and networks, but not its volumes."""
    deadline = time.monotonic() + REMOVING
    while True:
        done = run(["docker", "stack", "rm", stack], extra_env=engine.cli_environment(), timeout=120)
        # Ending tasks still hold its networks for a moment.
        if done.ok or time.monotonic() > deadline:
            break
        pause(1.0)
    done.require(f"removing {stack}")


def services(engine: Engine, stack: str) -> tuple[Replicated, ...]:
    """Return the services of a stack, sorted by name.

    Raises:
        Unreachable: the engine is no manager of a swarm.
    """
    require(engine)
    api: Any = engine.client.api
    with translated(engine.address):
        found = api.services(filters={"label": f"{STACK}={stack}"})
        tasks = api.tasks(filters={"label": f"{STACK}={stack}"})
    known = nodes(engine)
    return tuple(sorted((observed(one, tasks, known, stack) for one in found), key=lambda one: one.name))


def nodes(engine: Engine) -> dict[str, Node]:
    """Return the machines of the swarm, by id."""
    with translated(engine.address):
        found = engine.client.api.nodes()
    return {
        one["ID"]: Node(
            one["Description"]["Hostname"],
            one["Status"].get("Addr", ""),
            one["Status"]["State"] not in ("down", "disconnected"),
            (one.get("Spec") or {}).get("Role", ""),
            (one.get("Spec") or {}).get("Labels") or {},
        )
        for one in found
    }


def others(engine: Engine) -> list[Node]:
    """Return the machines of the swarm except this engine's."""
    with translated(engine.address):
        own = (engine.client.info().get("Swarm") or {}).get("NodeID")
    return [node for id_, node in nodes(engine).items() if id_ != own]


def observed(
    said: Mapping[str, Any], tasks: Sequence[Mapping[str, Any]], known: Mapping[str, Node], stack: str
) -> Replicated:
    """Build a service from the engine's answer and its tasks.

    Args:
        tasks: those of other services are ignored.
        known: nodes by id. Tasks of a node that is down, whose last report is out of date, do not count as running, and
            neither do those of a removed node.
    """
    spec, status = said["Spec"], said.get("UpdateStatus") or {}
    content = spec["TaskTemplate"]["ContainerSpec"]
    own = [task for task in tasks if task.get("ServiceID") == said["ID"]]
    there = [task for task in own if task["Status"]["State"] == "running" and _up(task, known)]
    current = [task for task in there if task["DesiredState"] == "running" and _is_current(task, spec)]
    newest = [] if _restarts(spec) else [task for task in _newest(own) if _is_current(task, spec)]
    ended = [task["Status"]["State"] for task in newest]
    lost = {known[t["NodeID"]].name for t in own if t["Status"]["State"] == "running" and _down(t, known)}
    return Replicated(
        id=said["ID"],
        name=spec["Name"].removeprefix(f"{stack}_"),
        image=content["Image"],
        wanted=_wanted(spec, own),
        running=len(current),
        others=len(there) - len(current),
        update=status.get("State", ""),
        message=status.get("Message", ""),
        errors=_errors(own),
        labels=content.get("Labels") or {},
        done=ended.count("complete"),
        broken=_condition(spec) == "none" and any(state in ("failed", "rejected") for state in ended),
        everywhere="Global" in spec["Mode"],
        unreachable=tuple(sorted(lost)),
    )


def _up(task: Mapping[str, Any], known: Mapping[str, Node]) -> bool:
    node = known.get(task.get("NodeID", ""))
    return node is not None and node.up


def _down(task: Mapping[str, Any], known: Mapping[str, Node]) -> bool:
    node = known.get(task.get("NodeID", ""))
    return node is not None and not node.up


def _is_current(task: Mapping[str, Any], spec: Mapping[str, Any]) -> bool:
    template, made = spec["TaskTemplate"], task["Spec"]
    same = bool(made.get("ContainerSpec") == template["ContainerSpec"])
    return same and bool(made.get("ForceUpdate", 0) == template.get("ForceUpdate", 0))


def _condition(spec: Mapping[str, Any]) -> str:
    return str((spec["TaskTemplate"].get("RestartPolicy") or {}).get("Condition") or FOR_EVER)


def _restarts(spec: Mapping[str, Any]) -> bool:
    return _condition(spec) == FOR_EVER


def _newest(tasks: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the newest task of each slot, or of each node for a global service."""
    places = {task.get("Slot") or task.get("NodeID"): task for task in sorted(tasks, key=lambda t: str(t["CreatedAt"]))}
    return list(places.values())


def _wanted(spec: Mapping[str, Any], tasks: Sequence[Mapping[str, Any]]) -> int:
    """Return how many tasks should run; for a global service those that Swarm wants, but at least one."""
    if "Global" not in spec["Mode"]:
        return int((spec["Mode"].get("Replicated") or {}).get("Replicas", 1))
    wanted = [task for task in _newest(tasks) if task["DesiredState"] in ("running", "ready")]
    ended = [] if _restarts(spec) else [task for task in _newest(tasks) if task["Status"]["State"] == "complete"]
    return max(1, len(wanted) + len(ended))


def _errors(tasks: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    told = sorted(
        (t for t in tasks if t["Status"]["State"] in ("failed", "rejected", "pending") and t["Status"].get("Err")),
        key=lambda t: str(t["UpdatedAt"]),
        reverse=True,
    )
    return tuple(dict.fromkeys(str(task["Status"]["Err"]) for task in told[:3]))


def wait_gone(engine: Engine, stack: str, seconds: float, pause: Callable[[float], None] = time.sleep) -> bool:
    """Wait until this node has no container or network of a stack left; return whether that came in time."""
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
    """Wait until a service has settled; return whether that came in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if any(one.settled for one in services(engine, stack) if one.name == service):
            return True
        pause(0.3)
    return False


def replicate(engine: Engine, service: str, replicas: int) -> None:
    """Set how many tasks of a service should run."""
    argv = ["docker", "service", "scale", "--detach", f"{service}={replicas}"]
    run(argv, extra_env=engine.cli_environment(), timeout=60).require(f"scaling {service}")


def provide(engine: Engine, stack: str, kind: str, key: str, content: bytes) -> str:
    """Ensure that Swarm has a secret or configuration of this content, and return its name, derived from the content.

    Args:
        kind: `secret` or `config`. Swarm can change neither, so new content needs a new name.
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
    """Remove the secrets and configurations that we made, except `keep`; Swarm itself refuses those in use."""
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
