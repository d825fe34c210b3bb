"""Finds an environment's InfluxDB, as the section `backup` describes it."""

from __future__ import annotations

from conche.backup.influx import Influx
from conche.command import Invocation
from conche.engine.connection import Engine
from conche.services import running_container
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
    return Influx(engine, running_container(call.stack, name, str(component.service), what), component.token_file)
