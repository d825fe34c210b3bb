"""On which nodes the services of a swarm have their data, and waiting until they are at rest.

A volume of Docker's own driver belongs to one node: another node has another volume of that name.
Source: https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Task
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from conche.engine import mounting, swarm
from conche.engine.connection import Engine, translated
from conche.errors import Refused

__all__ = ["Serving", "of_stack", "replicas_of", "require_here", "using", "wait_resting"]

NETWORKED = ("nfs", "nfs4", "cifs", "smb3", "ceph", "glusterfs", "9p")
"""Types of file systems that Docker's own driver mounts and every node can reach."""

NEVER_RAN = ("rejected",)
"""States of tasks that were given to a node and have not run there."""

ENDED = ("complete", "failed", "shutdown", "rejected", "remove", "orphaned")

BY_THEMSELVES = {"complete", "failed", "rejected"}
"""States of tasks that the swarm has not stopped."""

_CONSTRAINT = re.compile(r"\s*([\w.-]+)\s*(==|!=)\s*(.*?)\s*")


@dataclass(frozen=True)
class Serving:
    """A service of a swarm.

    Attributes:
        service: its name in its stack, which the other one begins with.
        replicas: how many tasks it should have; None if it has one on each node, or runs to completion.
        stack: the stack that it belongs to; empty if none.
        here: one of its tasks has its data on this engine's node.
        elsewhere: names of the other nodes on which its tasks have their data.
        ended: its tasks have ended, and the swarm starts no others.
        well: as many tasks run, or have ended successfully, as it should have.
        pin: the constraint that would hold it on this engine's node, with data that only this node has; empty if it can
            run nowhere else, or nothing depends on it.
    """

    name: str
    service: str
    replicas: int | None
    stack: str
    here: bool
    elsewhere: tuple[str, ...]
    ended: bool = False
    well: bool = True
    pin: str = ""


def of_stack(engine: Engine, stack: str) -> tuple[Serving, ...]:
    """Return the services of a stack, sorted by name; their data, and what holds them on a node, are not looked at."""
    return _unpinned(_serving(engine, lambda spec: _stack(spec) == stack))


def using(engine: Engine, volume: str) -> tuple[Serving, ...]:
    """Return the services that use a volume or a folder of the hosts, sorted by name."""
    with translated(engine.address):
        known = mounting.volume_paths(engine.client.api.volumes().get("Volumes") or [])
    resolve = os.path.realpath if engine.is_local else str
    places = mounting.Places.of([volume], known, resolve)
    if not volume.startswith("/"):
        # What mounts the folder of all volumes, such as an agent on each node, is no user of this one.
        places = replace(places, above=frozenset())
    found = _serving(engine, lambda spec: any(map(places.reached_by, mounting.mounts(_mounts(spec), known, resolve))))
    return _unpinned(found) if any(one.pin for one in found) and _is_shared(engine, volume) else found


def _unpinned(found: Iterable[Serving]) -> tuple[Serving, ...]:
    return tuple(replace(one, pin="") for one in found)


def require_here(engine: Engine, volume: str) -> tuple[Serving, ...]:
    """Return the services that use a volume, if this engine's node has their data.

    Raises:
        Refused: another node has them, so that this engine has none, or old ones; or that may be.
    """
    found = using(engine, volume)
    if not any(one.elsewhere for one in found):
        _require_known(engine, volume, found)
        return found
    if _is_shared(engine, volume):
        return found
    one = next(one for one in found if one.elsewhere)
    node = one.elsewhere[0]
    also = "also " if any(one.here for one in found) else ""
    raise Refused(
        "volume-elsewhere",
        f"{one.name} {also}uses {volume} on {', '.join(one.elsewhere)}. What this engine has under that name is another"
        " one.",
        looked_at=[f"engine {engine.address}"],
        next_command=f"docker node promote {node}    # then engine: swarm+ssh://{node}; conche docs backup says more",
    )


def _require_known(engine: Engine, volume: str, found: Sequence[Serving]) -> None:
    """Refuse if nothing tells on which node the data are: a swarm forgets the tasks of what is scaled to nothing."""
    if not found or any(one.here or not one.pin for one in found):
        return
    one = found[0]
    raise Refused(
        "volume-elsewhere",
        f"{one.name} uses {volume}, has no task on any node, and may run on others: which one has its data is unknown.",
        looked_at=[f"engine {engine.address}"],
        next_command=f"docker service update --constraint-add {one.pin} {one.name}"
        "    # if this engine's node has them; conche docs backup says more",
    )


def replicas_of(engine: Engine, service: str) -> int | None:
    """Return how many tasks a service should have; None if there is no such service, or it has no such number."""
    import docker.errors

    api: Any = engine.client.api
    with translated(engine.address):
        try:
            spec = api.inspect_service(service)["Spec"]
        except docker.errors.NotFound:
            return None
    return _replicas(spec)


def wait_resting(
    engine: Engine, names: Iterable[str], seconds: float, pause: Callable[[float], None] = time.sleep
) -> list[str]:
    """Wait until services that were scaled to nothing have no task left; return which still had one in the end.

    What is said of tasks on nodes that do not answer is out of date, and does not count.
    """
    api: Any = engine.client.api
    deadline = time.monotonic() + seconds
    while True:
        left = []
        nodes = swarm.nodes(engine)
        for name in names:
            with translated(engine.address):
                tasks = api.tasks(filters={"service": name})
            if any(one["Status"]["State"] not in ENDED and _answers(one, nodes) for one in tasks):
                left.append(name)
        if not left or time.monotonic() > deadline:
            return left
        pause(0.3)


def _answers(task: Mapping[str, Any], nodes: Mapping[str, swarm.Node]) -> bool:
    node = nodes.get(task.get("NodeID", ""))
    return node is None or node.up


def _serving(engine: Engine, meant: Callable[[Mapping[str, Any]], bool]) -> tuple[Serving, ...]:
    """Return the services whose specification is meant.

    Raises:
        Unreachable: the engine is no manager of a swarm.
    """
    swarm.require(engine)
    api: Any = engine.client.api
    with translated(engine.address):
        services, tasks = api.services(), api.tasks()
        own = str((api.info().get("Swarm") or {}).get("NodeID"))
    nodes = swarm.nodes(engine)
    found = [_described(one, tasks, nodes, own) for one in services if meant(one["Spec"])]
    return tuple(sorted(found, key=lambda one: one.name))


def _described(
    said: Mapping[str, Any], tasks: Sequence[Mapping[str, Any]], nodes: Mapping[str, swarm.Node], own: str
) -> Serving:
    spec = said["Spec"]
    name, stack = spec["Name"], _stack(spec)
    its = [one for one in tasks if one.get("ServiceID") == said["ID"]]
    there = _nodes_of(its)
    elsewhere = sorted(nodes[one].name if one in nodes else one for one in there - {own})
    return Serving(
        name,
        name.removeprefix(f"{stack}_"),
        _replicas(spec),
        stack,
        here=own in there,
        elsewhere=tuple(elsewhere),
        ended=_have_ended(its),
        well="ContainerSpec" in spec["TaskTemplate"] and swarm.observed(said, its, nodes, stack).settled,
        pin="" if {id_ for id_, node in nodes.items() if _may_run(spec, id_, node)} == {own} else f"node.id=={own}",
    )


def _have_ended(tasks: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether these tasks of a service have ended by themselves, and no others will follow.

    The swarm still wants a task that it is about to replace; one that it has stopped, as for an update, is `shutdown`.
    Source: https://github.com/moby/swarmkit/blob/master/design/task_model.md
    """
    newest = {one.get("Slot") or one.get("NodeID"): one["Status"]["State"] for one in _in_order(tasks)}
    over = all(one["Status"]["State"] in ENDED and one["DesiredState"] in ENDED for one in tasks)
    return bool(newest) and over and BY_THEMSELVES.issuperset(newest.values())


def _may_run(spec: Mapping[str, Any], id_: str, node: swarm.Node) -> bool:
    """Return whether the placement constraints of a service let it run on a node, as far as we can judge them.

    Source: https://docs.docker.com/reference/cli/docker/service/create/#constraint
    """
    known = {"node.id": id_, "node.hostname": node.name, "node.role": node.role}
    for text in (spec["TaskTemplate"].get("Placement") or {}).get("Constraints") or []:
        said = _CONSTRAINT.fullmatch(text)
        if said is None:
            continue
        key, sign, value = said.groups()
        label = key.removeprefix("node.labels.")
        has = node.labels.get(label, "") if label != key else known.get(key)
        if has is not None and (has.casefold() == value.casefold()) != (sign == "=="):
            return False
    return True


def _nodes_of(tasks: Iterable[Mapping[str, Any]]) -> set[str]:
    """Return the nodes that have the data of these tasks of a service: those on which each place ran last."""
    newest: dict[Any, str] = {}
    for one in _in_order(tasks):
        if one.get("NodeID") and one["Status"]["State"] not in NEVER_RAN:
            newest[one.get("Slot") or one["NodeID"]] = one["NodeID"]
    return set(newest.values())


def _in_order(tasks: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return sorted(tasks, key=lambda task: str(task["CreatedAt"]))


def _mounts(spec: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the mounts of a service as the engine describes those of a container."""
    described = spec["TaskTemplate"].get("ContainerSpec", {}).get("Mounts") or []
    return [
        {"Name" if one["Type"] == "volume" else "Source": one.get("Source", ""), "RW": not one.get("ReadOnly")}
        for one in described
        if one.get("Source")
    ]


def _replicas(spec: Mapping[str, Any]) -> int | None:
    replicated = spec["Mode"].get("Replicated")
    return None if replicated is None else int(replicated.get("Replicas", 1))


def _stack(spec: Mapping[str, Any]) -> str:
    return str((spec.get("Labels") or {}).get(swarm.STACK, ""))


def _is_shared(engine: Engine, volume: str) -> bool:
    """Return whether a volume has the same content on every node."""
    import docker.errors

    if volume.startswith("/"):
        return False
    with translated(engine.address):
        try:
            said = engine.client.api.inspect_volume(volume)
        except docker.errors.NotFound:
            return False
    return said.get("Scope") == "global" or str((said.get("Options") or {}).get("type", "")) in NETWORKED
