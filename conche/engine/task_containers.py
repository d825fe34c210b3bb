"""Finds the containers of a swarm's tasks on this node; those of other nodes are reachable by their engines only."""

from __future__ import annotations

from typing import Any

from conche.engine import containers
from conche.engine.connection import Engine, translated
from conche.engine.containers import Container
from conche.engine.swarm import STACK, nodes
from conche.errors import NotFound, Refused

__all__ = ["here", "of_service", "of_stack"]

SERVICE = "com.docker.swarm.service.name"
"""Label of a task's container with its service's name."""


def here(engine: Engine, stack: str, service: str) -> Container | None:
    """Return the running container of a service's task on this node; None if it runs elsewhere or not at all."""
    filters = {"label": f"{SERVICE}={stack}_{service}", "status": "running"}
    with translated(engine.address):
        found = engine.client.api.containers(filters=filters)
    return next((one for said in found if (one := containers.read(engine, said["Id"]))), None)


def of_stack(engine: Engine, stack: str) -> tuple[tuple[str, Container], ...]:
    """Return a stack's containers on this node, in any state, each with the name of its service."""
    with translated(engine.address):
        found = engine.client.api.containers(all=True, filters={"label": f"{STACK}={stack}"})
    names = {said["Id"]: said["Labels"].get(SERVICE, "").removeprefix(f"{stack}_") for said in found}
    return tuple((names[id_], one) for id_ in names if (one := containers.read(engine, id_)))


def of_service(engine: Engine, stack: str, service: str, what: str) -> Container:
    """Return the running container of a service's task, for an action that works only on this node.

    Args:
        what: the action, as in `a command inside it`.

    Raises:
        NotFound: no task of the service runs.
        Refused: its tasks run on other nodes.
    """
    found = here(engine, stack, service)
    if found is not None:
        return found
    away = sorted({name for name, up in _where(engine, f"{stack}_{service}").items() if up})
    if not away:
        raise NotFound(
            "service-not-running",
            f"No task of {service} runs on the swarm.",
            looked_at=[f"service {stack}_{service} on {engine.address}"],
            next_command=f"docker service ps --no-trunc {stack}_{service}",
        )
    raise Refused(
        "not-on-swarm",
        f"{service} runs on {', '.join(away)}, but {what} needs a container on this engine.",
        looked_at=[engine.address],
        next_command=f"docker --host ssh://{away[0]} ps --filter label={SERVICE}={stack}_{service}",
    )


def _where(engine: Engine, service: str) -> dict[str, bool]:
    """Return the name of each node with a running task of a service -> whether the node answers."""
    api: Any = engine.client.api
    with translated(engine.address, but=()):
        tasks = api.tasks(filters={"name": service, "desired-state": "running"})
    known = nodes(engine)
    running = [known[t["NodeID"]] for t in tasks if t["Status"]["State"] == "running" and t.get("NodeID") in known]
    return {node.name: node.up for node in running}
