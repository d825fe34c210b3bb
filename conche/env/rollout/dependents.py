"""What is restarted with a service that is made anew: what says `restart: true` in its `depends_on`, and so on."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from conche.engine import containers
from conche.engine.compose import Configuration, in_order
from conche.engine.containers import Container
from conche.env.rollout.look import Look
from conche.outcome import Action, Kind, Step

__all__ = ["followers", "restart_followers"]

TO_COME = datetime.max.replace(tzinfo=UTC)


def followers(
    bodies: Mapping[str, Any], found: Sequence[Container], anew: Collection[str], spared: Collection[str | None]
) -> Iterator[Step]:
    """Yield restarts of what runs, and has not started since a service was made that it follows, in order.

    Whoever made that service may have been killed before it came to what follows it. What follows a follower has to
    start after the same moment.

    Args:
        bodies: the rendered services.
        anew: services that are about to be made anew.
        spared: services that are never restarted, and on account of which nothing is.
    """
    since: dict[str, tuple[datetime, str]] = {}
    for name in in_order(bodies):
        own = [one for one in found if one.service == name]
        if name in spared:
            continue
        follows = [one for one, how in (bodies[name].get("depends_on") or {}).items() if how.get("restart")]
        latest, followed = max((since[one] for one in follows if one in since), default=(datetime.min, ""))
        if name in anew:
            since[name] = (TO_COME, name)
            continue
        if followed and any(one.state == "running" and _before(one, latest) for one in own):
            made = "is recreated" if latest == TO_COME else "was recreated"
            yield Step(Action.RESTART, Kind.SERVICE, name, f"follows {followed}, which {made}")
        made_at = [one.created_at for one in own if one.created_at is not None]
        of_own = [(min(made_at), name)] if made_at else []
        of_others = [(latest, followed)] if followed else []
        if of_own or of_others:
            since[name] = max(of_own + of_others)


def _before(one: Container, moment: datetime) -> bool:
    return moment == TO_COME or (one.started_at is not None and one.started_at < moment)


def restart_followers(look: Look, configuration: Configuration, restarted: Collection[str], followed: str) -> None:
    """Restart again what a release has restarted, because it follows this service, which is back as it was."""
    anew = {followed}
    for name, service in configuration.services.items():
        if name in restarted and not anew.isdisjoint(service.follows):
            anew.add(name)
            for one in look.of(name):
                containers.restart(look.compose.engine, one)
