"""What has to be restarted for a service that it follows, and was not: whoever should have done it was killed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from conche.engine.containers import Container

__all__ = ["all_followers", "overdue"]

TO_COME = datetime.max.replace(tzinfo=UTC)


def overdue(
    follows: Mapping[str, Sequence[str]],
    found: Sequence[Container],
    *,
    anew: Collection[str] = (),
    spared: Collection[str | None] = (),
) -> dict[str, str]:
    """Return service -> why what runs of it has to be restarted.

    What follows a service has to start after that was made, and what follows a follower after the same moment. What is
    in the network, processes or memory of a container has to start after that has last started: those that it had
    before are gone.

    Args:
        follows: service -> services with which it is restarted.
        anew: services that are about to be made anew.
        spared: services that are restarted for none that they follow, and on account of which nothing is.
    """
    look = _Look(follows, found, frozenset(anew), frozenset(spared))
    for name in follows:
        look.since(name)
    return {name: look.causes[name] for name in follows if name in look.causes}


def all_followers(follows: Mapping[str, Sequence[str]], followed: str) -> frozenset[str]:
    """Return the services that follow one, directly or not."""
    found: set[str] = set()
    while more := {name for name, those in follows.items() if not {followed, *found}.isdisjoint(those)} - found:
        found |= more
    return frozenset(found - {followed})


@dataclass
class _Look:
    """One look at what follows what.

    Attributes:
        causes: service -> why it has to be restarted.
    """

    follows: Mapping[str, Sequence[str]]
    found: Sequence[Container]
    anew: frozenset[str]
    spared: frozenset[str | None]
    causes: dict[str, str] = field(default_factory=dict)
    _known: dict[str, tuple[datetime, str] | None] = field(default_factory=dict)

    def since(self, name: str) -> tuple[datetime, str] | None:
        """Return the moment after which followers of a service must have started, and the service made then."""
        if name not in self._known:
            self._known[name] = None  # where services follow each other in a circle it ends
            self._known[name] = self._since(name)
        return self._known[name]

    def _since(self, name: str) -> tuple[datetime, str] | None:
        own = [one for one in self.found if one.service == name]
        if joined := self._joined(own):
            self.causes[name] = f"follows {joined}, which has started anew"
        if name in self.spared:
            return None
        latest = max(filter(None, map(self.since, self.follows.get(name, ()))), default=None)
        if name in self.anew:
            return TO_COME, name
        if latest is not None and any(one.state == "running" and _before(one, latest[0]) for one in own):
            made = "is recreated" if latest[0] == TO_COME else "was recreated"
            self.causes[name] = f"follows {latest[1]}, which {made}"
        made_at = [one.created_at for one in own if one.created_at is not None]
        return max(filter(None, [latest, (min(made_at), name) if made_at else None]), default=None)

    def _joined(self, own: Sequence[Container]) -> str:
        """Return a service in whose network, processes or memory of an earlier start one of these still is."""
        there = {one.id: one for one in self.found}
        for one in (one for one in own if one.state == "running" and one.started_at is not None):
            for other in (there[id_] for id_ in one.joins if id_ in there):
                if other.started_at is not None and _before(one, other.started_at):
                    return other.service
        return ""


def _before(one: Container, moment: datetime) -> bool:
    return moment == TO_COME or (one.started_at is not None and one.started_at < moment)
