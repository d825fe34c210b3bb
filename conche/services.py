"""Which containers the services of an environment have on its engine, under Compose or as tasks of a swarm."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from conche.engine import containers, swarm_places, task_containers
from conche.engine.connection import Engine
from conche.engine.containers import Container
from conche.errors import NotFound
from conche.stack import Stack

__all__ = ["away", "containers_of", "running_container"]


def containers_of(stack: Stack, name: str) -> tuple[tuple[str, Container], ...]:
    """Return an environment's containers on its engine, in any state, each with the name of its service.

    Of a swarm these are the tasks of this node: those of others are known to their engines only (`away`).

    Raises:
        Unreachable: the engine does not answer.
    """
    environment, project = stack.environments[name], stack.project(name)
    engine = Engine(environment.engine)
    tasks = task_containers.of_stack(engine, project) if environment.swarm else ()
    return (*tasks, *((one.service, one) for one in containers.of_project(engine, project)))


def away(stack: Stack, name: str, services: Iterable[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the services that run on other nodes of an environment's swarm, each with the names of these.

    Raises:
        Unreachable: the engine does not answer.
    """
    environment, wanted = stack.environments[name], set(services)
    if environment.swarm:
        for one in swarm_places.of_stack(Engine(environment.engine), stack.project(name)):
            if one.service in wanted and one.elsewhere:
                yield one.service, tuple(one.elsewhere)


def running_container(stack: Stack, name: str, service: str, what: str) -> Container:
    """Return a running container of a service.

    Args:
        what: what it is needed for, as in `a dump or a restore`.

    Raises:
        NotFound: there is none.
        Refused: on a swarm, all of them run on other nodes.
        Unreachable: the engine does not answer.
    """
    environment, project = stack.environments[name], stack.project(name)
    engine = Engine(environment.engine)
    if environment.swarm:
        return task_containers.of_service(engine, project, service, what)
    for one in containers.of_project(engine, project):
        if one.service == service and one.state == "running":
            return one
    raise NotFound(
        "service-not-running",
        f"{service} is not running in {name}, and {what} needs it.",
        looked_at=[f"project {project} on {engine.address}"],
        next_command=f"invoke env.up --env {name}",
    )
