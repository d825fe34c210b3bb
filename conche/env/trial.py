"""Runs a trial: the new container beside the one that serves, before that one is touched.

It is made from the rendered definition, without published ports or a fixed name, in a Compose project of its own, on
the same networks and volumes. Only services of this repository's own images are tried: two servers on one data volume
are not safe.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from conche.engine import containers, health, networks
from conche.engine.compose import Compose, Configuration
from conche.engine.health import Waiting
from conche.errors import Restored
from conche.stack import TRIAL

__all__ = ["definition", "remove", "start_and_wait"]


PER_CONTAINER = ("ports", "container_name", "restart", "depends_on", "build", "links", "hostname")
"""Keys that belong to the container that serves; with them the trial would get in its way."""


def definition(configuration: Configuration, service: str, present: Collection[str]) -> dict[str, Any]:
    """Return the Compose document for a trial of one service.

    What belongs to the container that serves is left out, fixed addresses and aliases too, and the service is renamed:
    nothing that looks for it by name finds the trial. Networks and volumes are the project's own if they are `present`;
    a new one gets a stand-in, which goes with the trial.
    """
    rendered: Mapping[str, Any] = copy.deepcopy(dict(configuration.rendered))
    body = rendered["services"][service]
    for key in PER_CONTAINER:
        body.pop(key, None)
    if isinstance(body.get("networks"), dict):
        body["networks"] = dict.fromkeys(body["networks"])
    document = {"name": configuration.project + TRIAL, "services": {service + TRIAL: body}}
    for kind in ("networks", "volumes"):
        if rendered.get(kind):
            document[kind] = {
                key: {"name": value["name"], "external": True} if value["name"] in present else None
                for key, value in rendered[kind].items()
            }
    for kind in ("secrets", "configs"):
        if rendered.get(kind):
            document[kind] = rendered[kind]
    return document


def start_and_wait(compose: Compose, configuration: Configuration, service: str, timeout: float | None) -> Waiting:
    """Start the trial and wait until it works or has failed.

    Raises:
        Restored: it cannot be started; the one that serves was not touched.
    """
    present = networks.names(compose.engine) | set(networks.volumes(compose.engine, configuration.volumes))
    document = json.dumps(definition(configuration, service, present)).encode()
    trial = replace(compose, project=compose.project + TRIAL, files=(), document=document)
    started = trial.make(trial.argv("--progress", "plain", "up", "--detach", "--no-build", "--pull", "never"))
    if not started.ok:
        raise Restored(
            "start-failed",
            f"The new {service} cannot be started; the one that serves was not touched.",
            evidence=started.last_lines(6),
            next_command="invoke env.up    # after correcting it",
        )
    return health.wait(
        compose.engine,
        lambda: containers.of_project(compose.engine, trial.project),
        {service + TRIAL: replace(configuration.services[service], ends=False, completes=False)},
        timeout=timeout,
        restarts={},  # all of them are new
    )


def remove(compose: Compose) -> None:
    """Remove what a trial left, its containers and stand-ins, if anything."""
    project = compose.project + TRIAL
    for container in containers.of_project(compose.engine, project):
        containers.remove(compose.engine, container.id)
    networks.remove_of_project(compose.engine, project)
