"""What is restarted with a service that is made anew: what says `restart: true` in its `depends_on`, and so on."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from conche.engine import containers
from conche.engine.compose import Configuration, in_order
from conche.engine.containers import Container
from conche.env.following import overdue
from conche.env.rollout.look import Look
from conche.outcome import Action, Kind, Step

__all__ = ["followers", "restart_followers"]


def followers(
    bodies: Mapping[str, Any], found: Sequence[Container], anew: Collection[str], spared: Collection[str | None]
) -> Iterator[Step]:
    """Yield restarts of what runs, and has not started since a service was made that it follows, in order.

    Whoever made that service may have been killed before it came to what follows it.

    Args:
        bodies: the rendered services.
        anew: services that are about to be made anew.
        spared: services that are never restarted for what they follow, and on account of which nothing is.
    """
    ordered = {name: bodies[name].get("depends_on") or {} for name in in_order(bodies)}
    follows = {name: [one for one, how in needs.items() if how.get("restart")] for name, needs in ordered.items()}
    for name, cause in overdue(follows, found, anew=anew, spared=spared).items():
        yield Step(Action.RESTART, Kind.SERVICE, name, cause)


def restart_followers(look: Look, configuration: Configuration, restarted: Collection[str], followed: str) -> None:
    """Restart again what a release has restarted, because it follows this service, which is back as it was."""
    anew = {followed}
    for name, service in configuration.services.items():
        if name in restarted and not anew.isdisjoint(service.follows):
            anew.add(name)
            for one in look.of(name):
                containers.restart(look.compose.engine, one)
