"""Logs nodes out of their tailnet before the volume that says who they are is deleted.

Without that the control server keeps listing a node that cannot come back, and the next one of its name gets another.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from conche.engine import containers, programs
from conche.engine.connection import Engine
from conche.engine.containers import Container
from conche.engine.tailnet import IMAGE, PATIENCE, sidecars
from conche.errors import ConcheError
from conche.outcome import Action, Kind, Step
from conche.process import signals_deferred

__all__ = ["LeavingNode", "let_go", "log_out", "nodes"]

LOG_OUT = 'tailscale --socket="${TS_SOCKET:-/tmp/tailscaled.sock}" logout'


@dataclass(frozen=True)
class LeavingNode:
    """A node whose state is about to be deleted.

    Attributes:
        volume: where its state is.
        called: its name on the tailnet, without the tailnet's; the one asked for, if it cannot be asked.
        container: the sidecar that runs as this node, if one does.
        name: its full name on the tailnet; empty if it is not logged in.
    """

    service: str
    volume: str
    called: str
    container: Container | None = None
    name: str = ""

    @property
    def step(self) -> Step | None:
        """What is to be done about it, if anything can."""
        if not self.name:
            return None
        return Step(Action.LOG_OUT, Kind.NODE, self.name, f"its volume {self.volume} is deleted", destroys=True)

    @property
    def warning(self) -> str:
        """What is lost with it, to be read before the volume is deleted."""
        if self.name:
            return f"node {self.name} will be logged out of its tailnet for good: a backup of it cannot bring it back"
        return (
            f"{self.service} will lose its name on its tailnet, where it cannot be logged out: it is not running there"
        )

    @property
    def remark(self) -> str:
        """What is left to be done at the control server."""
        return (
            f"The control server may go on listing {self.called}: delete it there, or the next node cannot have that "
            "name. One that was ephemeral goes by itself."
        )


def nodes(
    engine: Engine, rendered: Mapping[str, Any], found: Iterable[Container], volumes: Collection[str]
) -> tuple[LeavingNode, ...]:
    """Return the nodes that have their state in one of these volumes.

    Args:
        rendered: the Compose files, as Compose understands them.
        found: the environment's containers.
    """
    kept = list(_kept(rendered, volumes))
    services = {one.service for one in kept}
    running = {one.service: one for one in found if one.service in services and one.state == "running"}
    names = {one.service: one.name for one in sidecars(engine, running.values()) if one.addresses}
    return tuple(_running(one, running.get(one.service), names.get(one.service, "")) for one in kept)


def _running(node: LeavingNode, container: Container | None, name: str) -> LeavingNode:
    return replace(node, container=container, name=name, called=name.partition(".")[0] or node.called)


def _kept(rendered: Mapping[str, Any], volumes: Collection[str]) -> Iterator[LeavingNode]:
    """Yield the node of each sidecar that mounts one of these volumes."""
    declared = rendered.get("volumes") or {}
    for service, body in (rendered.get("services") or {}).items():
        if not IMAGE.search(str(body.get("image", ""))):
            continue
        for mount in body.get("volumes") or ():
            volume = str((declared.get(mount.get("source")) or {}).get("name"))
            if mount.get("type") == "volume" and volume in volumes:
                yield LeavingNode(service, volume, str(body.get("hostname") or service))


def log_out(engine: Engine, node: LeavingNode, *, hold: bool = False) -> str:
    """Log a node out, and end its container so that it does not join again; return what kept it from that, if anything.

    Args:
        hold: leave the container to whoever removes it, unable to do anything: a swarm would at once start another one,
            which joins again.

    Its start program takes a node that leaves for a failure, and ends the daemon before the server has been told: so
    that program is held meanwhile, by a signal that only the engine can send it.
    """
    if node.container is None or not node.name:
        return ""
    with signals_deferred():
        try:
            containers.hold(engine, node.container.id)
            argv = ("sh", "-c", LOG_OUT)
            done = programs.run(engine, node.container.id, argv, number=programs.new_number(), timeout=PATIENCE)
            said = "" if done.ok else (done.stderr.raw or done.stdout.raw).strip() or f"exit code {done.exit_code}"
        except ConcheError as error:
            said = error.message
        if not hold:
            containers.end(engine, node.container.id)
    return f"{node.name} was not logged out: {said}" if said else ""


def let_go(engine: Engine, leaving: Iterable[LeavingNode]) -> None:
    """End the containers that were left held, because nobody removes them after all."""
    for node in leaving:
        if node.container is not None and node.name:
            containers.end(engine, node.container.id)
