"""What stands and falls together: the services of a plan that cannot do without one that does not come up."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from conche.engine.compose import Configuration

__all__ = ["fall_with", "needs"]

Routes = Mapping[str, str]
"""An edge -> the service that it sends requests to."""


def needs(configuration: Configuration, service: str, routes: Routes) -> frozenset[str]:
    """What a service cannot do without: by `depends_on`, by what it shares of another one, by an edge's route."""
    body = configuration.rendered["services"][service]
    depends = {name for name, how in (body.get("depends_on") or {}).items() if (how or {}).get("required", True)}
    routed = {routes[service]} if service in routes else set()
    return frozenset({*depends, *configuration.services[service].shares, *routed})


def fall_with(
    configuration: Configuration, failed: Collection[str], planned: Collection[str], routes: Routes
) -> dict[str, str]:
    """The services of a plan that fall with the failed ones, each with what it needs of those.

    Args:
        planned: what the plan starts or replaces; what it leaves alone is left alone by a failure too.
    """
    fallen: dict[str, str] = {}
    down = set(failed)
    while True:
        more = {
            name: min(lost)
            for name in planned
            if name not in down and (lost := needs(configuration, name, routes) & down)
        }
        if not more:
            return fallen
        fallen |= more
        down |= more.keys()
