"""Hands over the port at the first release behind an edge: from the containers of env.up that publish it to the edge.

Nothing is stopped before the release works and the edge, tried without its port, has answered for it. Then what has the
port stops, and the edge starts. To take this back, the edge is removed and what was stopped is started again.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from conche.engine import containers, health, ports
from conche.engine.compose import Configuration
from conche.engine.containers import Container
from conche.engine.ports import Port
from conche.env import preflight
from conche.env.rollout.change import Change
from conche.env.rollout.look import Look
from conche.errors import NotRestored
from conche.release.document import RELEASE

__all__ = ["Handover", "give_back", "overlap", "prepare_handover", "remove_edge", "start_again"]


@dataclass(frozen=True)
class Handover:
    """What was there before the first release.

    Attributes:
        holders: containers that hold a port of the edge's, and stop for it.
        old: containers of the service behind the edge that belong to no release, and go once the edge serves.
    """

    holders: tuple[Container, ...] = ()
    old: tuple[Container, ...] = ()

    @classmethod
    def of(
        cls, found: Sequence[Container], serves: str | None, published: Sequence[Port], recreated: Collection[str]
    ) -> Handover:
        """Find what has to give way.

        Args:
            found: every container of the project but the edge's.
            published: ports that the edge publishes; empty if it already runs.
            recreated: services that are made anew before the edge starts, which frees their ports.
        """
        holders = [
            one
            for one in found
            if one.state == "running" and one.service not in recreated and overlap(one.publishes, published)
        ]
        old = [one for one in found if one.service == serves and RELEASE not in one.labels]
        return cls(tuple(holders), tuple(old) if serves else ())


def prepare_handover(look: Look, found: Sequence[Change], configuration: Configuration) -> Handover:
    """Look for what gives way to an edge that starts.

    Raises:
        Refused: a port of what is started or replaced is taken by something else.
    """
    edge = next((one for one in found if one.service == look.deploy.edge and one.strategy != "keep"), None)
    recreated = {one.service for one in found if one.strategy in ("recreate", "replace")}
    others = [one for one in look.all() if one.service != look.deploy.edge]
    starts = edge is not None and edge.strategy in ("create", "start")
    published = configuration.services[edge.service].ports if edge is not None else ()
    handover = Handover.of(others, look.deploy.serves, published if starts else (), recreated)
    _see_ports(look, found, configuration, handover)
    return handover


def _see_ports(look: Look, found: Sequence[Change], configuration: Configuration, handover: Handover) -> None:
    names = [one.service for one in found if one.strategy != "keep"]
    services = [configuration.services[name] for name in names if name in configuration.services]
    stopping = [one.service for one in handover.holders]
    preflight.see_ports(services, look.compose.project, look.name, look.compose.engine, stopping)


def overlap(some: Sequence[Port], others: Sequence[Port]) -> bool:
    """Return whether two services could not publish these at the same time."""
    return any(ports.overlap(one, other) for one in some for other in others)


def give_back(look: Look, holders: Sequence[str]) -> None:
    """Remove the edge of a release that did not complete its takeover, and let what that stopped serve again.

    Raises:
        NotRestored: it does not.
    """
    remove_edge(look)
    for identity in holders:
        one = containers.read(look.compose.engine, identity)
        if one is not None:
            start_again(look, one)


def remove_edge(look: Look) -> None:
    for one in look.of(look.deploy.edge or ""):
        containers.remove(look.compose.engine, one.id)


def start_again(look: Look, one: Container) -> None:
    """Start a container, and check that it works and has its ports."""
    engine = look.compose.engine
    containers.start(engine, one.id)
    services = {one.service: containers.definition(engine, one)}
    waiting = health.wait(engine, lambda: [seen for seen in look.all() if seen.id == one.id], services)
    failed = list(waiting.failed.values()) or ["" if waiting.containers[0].ports else "publishes nothing"]
    if failed[0]:
        raise NotRestored(
            "previous-state-lost",
            f"{one.name}, which served before, could not be started again: it {failed[0]}.",
            next_command=f"docker start {one.name}\ninvoke env.status --env {look.name}",
        )
