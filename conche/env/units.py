"""Decides which services of a plan fall together: those that cannot do without one that does not come up."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from conche.engine.compose import Configuration

__all__ = ["fall_with", "needs"]

Routes = Mapping[str, str]
"""Edge -> the service that it sends requests to."""


def needs(configuration: Configuration, service: str, routes: Routes) -> frozenset[str]:
    """Return what a service cannot do without: by `depends_on`, by what it shares, or by an edge's route."""
    body = configuration.rendered["services"][service]
    depends = {name for name, how in (body.get("depends_on") or {}).items() if (how or {}).get("required", True)}
    routed = {routes[service]} if service in routes else set()
    return frozenset({*depends, *configuration.services[service].shares, *routed})


def fall_with(
    configuration: Configuration, failed: Collection[str], planned: Collection[str], routes: Routes
) -> dict[str, str]:
    """Return the services of a plan that fall with the failed ones, each with one it needs that is down.

    Args:
        planned: what the plan starts or replaces; a failure leaves alone whatever the plan does.
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
