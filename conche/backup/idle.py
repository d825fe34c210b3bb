"""Waits for work to end before containers are held for a backup: for a pipeline, say, before its forge is stopped."""

from __future__ import annotations

import time
from collections.abc import Sequence

from conche.backup.site import Site
from conche.engine import containers, programs
from conche.engine.connection import Engine
from conche.engine.containers import Container
from conche.services import away, containers_of
from conche.stack import Component

__all__ = ["WAIT", "wait"]

WAIT = 600.0
"""Seconds to wait for work to end, for all services of a component together."""

PAUSE = 5.0
"""Seconds between two runs of a service's command."""

WORKS = 1
"""The exit code of a service's command while work is under way; 0 means idle, anything else is no answer."""


def wait(site: Site, component: Component, engine: Engine) -> str:
    """Wait until no work is under way in the services that the component names.

    Returns:
        Why that could not be established; empty if all are idle. A service that does not run counts as idle.
    """
    assert component.environment is not None
    if not component.idle:
        return ""
    end = time.monotonic() + WAIT
    for service, nodes in away(site.stack, component.environment, component.idle):
        return f"{service} runs on {', '.join(nodes)}, and cannot be asked whether it is idle"
    for service, one in containers_of(site.stack, component.environment):
        if service in component.idle and (reason := _wait(site, engine, service, one, component.idle[service], end)):
            return reason
    return ""


def _wait(site: Site, engine: Engine, service: str, one: Container, argv: Sequence[str], end: float) -> str:
    said = False
    while (seen := containers.read(engine, one.id)) is not None and seen.state == "running":
        asked = programs.run(engine, one.id, argv, number=programs.new_number(), timeout=60)
        if asked.ok:
            return ""
        if asked.exit_code != WORKS:
            return f"{service} does not say whether it is idle: {' '.join(asked.last_lines(1))}"
        if time.monotonic() > end:
            return f"{service} was still busy after {WAIT:g} s"
        if not said:
            site.say(f"waiting until {service} is idle")
            said = True
        time.sleep(PAUSE)
    return ""
