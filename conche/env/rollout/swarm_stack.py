"""Converts a release's document to what Swarm takes, and decides what becomes of each service; pure."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from conche.engine.rendered import plain
from conche.engine.swarm import Replicated
from conche.env.rollout import edge as edges
from conche.env.rollout import swarm_service
from conche.env.rollout.change import CHANGED, Change
from conche.errors import Refused
from conche.outcome import Action, Kind, Plan, Step
from conche.release.document import Document
from conche.release.records import Record
from conche.stack import Deploy

__all__ = ["Sent", "plan_swarm", "swarm_changes", "to_stack"]

VERSION = "3.9"
"""Version of the format: the first that limits processes, known to the Docker CLI since 20.10."""


@dataclass(frozen=True)
class Sent:
    """What is handed to Swarm.

    Attributes:
        secrets: key -> content of the Swarm secrets that the document names by content.
        configs: likewise for configurations.
    """

    body: Mapping[str, Any]
    secrets: Mapping[str, bytes] = field(repr=False)
    configs: Mapping[str, bytes] = field(default_factory=dict)

    def content(self, names: Mapping[str, str]) -> bytes:
        """Return the document, with the names under which Swarm has its secrets and configurations."""
        body = json.loads(json.dumps(self.body))
        for kind, given in (("secrets", self.secrets), ("configs", self.configs)):
            if given:
                ours = {key: {"external": True, "name": names[key]} for key in given}
                body[kind] = {**body.get(kind, {}), **ours}
        return json.dumps(body).encode()


def to_stack(
    document: Document, deploy: Deploy, edge: edges.EdgeConfiguration | None, overlays: Collection[str] = ()
) -> Sent:
    """Convert a release's document to what Swarm takes.

    Args:
        overlays: existing networks of the swarm.
        edge: the edge's configuration, which on Swarm is given to its service as files and not in a volume.

    Raises:
        Refused: Swarm cannot do something that it asks for.
    """
    rendered = document.body
    outside = {key: said for key, said in (rendered.get("networks") or {}).items() if said.get("external")}
    for key, network in outside.items():
        if network["name"] not in overlays:
            raise Refused(
                "network-not-swarm",
                f"The network {key} is external; Swarm needs networks of its own (overlay).",
                next_command=f"docker network create --driver overlay --attachable {network.get('name', key)}",
            )
    services = {name: swarm_service.convert(name, body, deploy) for name, body in rendered["services"].items()}
    configs = {key: content for key, said in (rendered.get("configs") or {}).items() if (content := _config(said))}
    if edge is not None and deploy.edge is not None:
        configs.update(_at_edge(services[deploy.edge], edge))
    body = {
        "version": VERSION,
        "services": services,
        "networks": {key: _network(said or {}) for key, said in (rendered.get("networks") or {}).items()},
        "volumes": _volumes(rendered.get("volumes") or {}, services),
        **_external(rendered),
    }
    secrets = {
        # A swarm takes no empty secret, such as an optional one that no release keeps.
        key: document.variables.get(said["environment"], "").encode() or b"\n"
        for key, said in (rendered.get("secrets") or {}).items()
        if said.get("environment") in {*document.variables, *document.unsealed}
    }
    return Sent(body, secrets, configs)


def _at_edge(service: dict[str, Any], edge: edges.EdgeConfiguration) -> dict[str, bytes]:
    """Give the edge its configuration as files of its service instead of a volume; return their contents."""
    given = {path.partition("/")[2]: content for path, content in edge.files.items()}
    service["configs"] = [
        *service.get("configs", []),
        *({"source": _dashed(name), "target": f"{edges.FOLDER}/current/{name}"} for name in given),
    ]
    service["volumes"] = [one for one in service.get("volumes", []) if one.get("target") != edges.FOLDER]
    return {_dashed(name): content for name, content in given.items()}


def _dashed(name: str) -> str:
    return name.replace(".", "-")


def _config(said: Mapping[str, Any]) -> bytes:
    """Return the content of a configuration; Compose has doubled the dollars of one written in the file itself."""
    return plain(said.get("content") or "").encode()


def _external(rendered: Mapping[str, Any]) -> dict[str, Any]:
    """Return secrets and configurations that the swarm already has."""
    found = {}
    for kind in ("secrets", "configs"):
        outside = {
            key: {"external": True, "name": said["name"]}
            for key, said in (rendered.get(kind) or {}).items()
            if said.get("external")
        }
        if outside:
            found[kind] = outside
    return found


def _network(said: Mapping[str, Any]) -> dict[str, Any]:
    if said.get("external"):
        return {"external": True, "name": said["name"]}
    kept = {key: said[key] for key in ("name", "driver_opts", "internal", "labels", "ipam") if said.get(key)}
    return {"driver": "overlay", "attachable": True, **kept}


def _volumes(given: Mapping[str, Any], services: Mapping[str, Any]) -> dict[str, Any]:
    """Return the volumes that services use, and no other: the edge's is not among them."""
    mounts = [one for body in services.values() for one in body.get("volumes", []) if one["type"] == "volume"]
    used = {one.get("source") for one in mounts}
    keys = ("name", "driver", "driver_opts", "external", "labels")
    return {
        key: {one: said[one] for one in keys if (said or {}).get(one)} for key, said in given.items() if key in used
    }


def swarm_changes(
    found: Sequence[Replicated], record: Record, current: Record | None, *, forced: bool
) -> tuple[Change, ...]:
    """Decide what becomes of each service by comparing definitions, as Swarm itself does."""
    running = {one.name: one for one in found}
    changes = []
    for name, placed in record.services.items():
        before = current.services.get(name) if current else None
        if name not in running:
            change = Change(name, "create", "has no service", "none: it is not running yet")
        elif before is None:
            change = Change(name, "update", "was never deployed", "by its update order")
        elif not placed.same_as(before):
            cause = CHANGED if before.image == placed.image else "its image changed"
            change = Change(name, "update", cause, "by its update order")
        elif not running[name].settled or forced:
            change = Change(name, "update", "asked for" if forced else "has not settled", "by its update order")
        else:
            change = Change(name, "keep", "", "none")
        changes.append(change)
    return tuple(changes)


def plan_swarm(release: str, found: Sequence[Change], deploy: Deploy, current: Record | None) -> Plan:
    """Plan the steps of a release on Swarm; none if nothing changes."""
    if all(change.strategy == "keep" for change in found):
        return Plan()
    before = current.id if current else "nothing"
    steps = [
        Step(Action.RECORD, Kind.RELEASE, release, "before anything is changed"),
        Step(Action.PROVIDE, Kind.SECRETS, f"of {release}", "named by their content"),
        Step(Action.UPDATE, Kind.STACK, f"to {release}", f"from {before}", undo=f"update stack to {before}"),
        Step(Action.AWAIT, Kind.RELEASE, release, "every service must converge"),
    ]
    if deploy.edge is not None:
        steps.append(Step(Action.PROBE, Kind.RELEASE, release, "through the edge"))
    return Plan(
        (
            *steps,
            Step(Action.COMMIT, Kind.RELEASE, release, "it serves"),
            Step(Action.SWEEP, Kind.SECRETS, "", "they are unused"),
        )
    )
