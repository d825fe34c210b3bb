"""Finds an environment's InfluxDB, as the section `backup` describes it."""

from __future__ import annotations

from conche.backup.influx import Influx
from conche.command import Invocation
from conche.engine import containers, task_containers
from conche.engine.connection import Engine
from conche.errors import NotFound
from conche.stack import Component

__all__ = ["declared", "opened"]


def declared(call: Invocation, name: str) -> Component:
    """Return the component of an environment's InfluxDB; without one, the service `influxdb`."""
    components = call.stack.backup.components.values() if call.stack.backup else ()
    known = [one for one in components if one.driver == "influxdb" and one.environment == name]
    return known[0] if known else Component(driver="influxdb", service="influxdb", environment=name)


def opened(call: Invocation, name: str, what: str) -> Influx:
    """Return a client for an environment's running InfluxDB.

    Args:
        what: what is to be done in it, for the error where its task runs on another node of a swarm.

    Raises:
        NotFound: it does not run.
        Refused: it runs on another node.
    """
    component, engine = declared(call, name), Engine(call.stack.environments[name].engine)
    if call.stack.environments[name].swarm:
        found = task_containers.of_service(engine, call.stack.project(name), str(component.service), what)
        return Influx(engine, found, component.token_file)
    for one in containers.of_project(engine, call.stack.project(name)):
        if one.service == component.service and one.state == "running":
            return Influx(engine, one, component.token_file)
    raise NotFound(
        "service-not-running",
        f"{component.service} is not running in {name}.",
        next_command=f"invoke env.up --env {name}",
    )
