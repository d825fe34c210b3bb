"""From a release's document to what Swarm takes, and what becomes of each service: pure."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from conche.engine.swarm import Replicated
from conche.env.deploy import edge as edges
from conche.env.deploy.document import Document
from conche.env.deploy.plan import Change
from conche.env.deploy.records import Record
from conche.errors import Refused
from conche.outcome import Plan, Step
from conche.stack import Deploy

__all__ = ["Sent", "plan_swarm", "swarm_changes", "to_stack"]

PASSED = (
    "cap_add", "cap_drop", "command", "dns", "entrypoint", "environment", "extra_hosts", "healthcheck", "hostname",
    "image", "init", "labels", "logging", "read_only", "stop_grace_period", "stop_signal", "sysctls", "tmpfs",
    "ulimits", "user", "working_dir",
)  # fmt: skip
"""What Swarm takes of a service as Compose renders it. The rest it refuses, or would silently not do."""


@dataclass(frozen=True)
class Sent:
    """What is handed to Swarm.

    Attributes:
        secrets: key -> content, of Swarm secrets that the document names by content.
        configs: the same for configurations.
    """

    body: Mapping[str, Any]
    secrets: Mapping[str, bytes] = field(repr=False)
    configs: Mapping[str, bytes] = field(default_factory=dict)

    def content(self, names: Mapping[str, str]) -> bytes:
        """The document, with the names under which Swarm has its secrets and configurations."""
        body = json.loads(json.dumps(self.body))
        for kind, given in (("secrets", self.secrets), ("configs", self.configs)):
            if given:
                body[kind] = {key: {"external": True, "name": names[key]} for key in given}
        return json.dumps(body).encode()


def to_stack(
    document: Document, deploy: Deploy, edge: edges.Configuration | None, overlays: Collection[str] = ()
) -> Sent:
    """A release's document as Swarm takes it.

    Args:
        overlays: networks of the swarm that are there already.
        edge: the edge's configuration, which on Swarm is a configuration of its own and not in a volume.

    Raises:
        Refused: something of it cannot be done by Swarm.
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
    services = {name: _service(name, body, deploy) for name, body in rendered["services"].items()}
    configs = {}
    if edge is not None and deploy.edge is not None:
        configs = {path.partition("/")[2].replace(".", "-"): content for path, content in edge.files.items()}
        services[deploy.edge]["configs"] = [
            {
                "source": path.partition("/")[2].replace(".", "-"),
                "target": f"{edges.FOLDER}/current/{path.partition('/')[2]}",
            }
            for path in edge.files
        ]
        services[deploy.edge]["volumes"] = [
            one for one in services[deploy.edge].get("volumes", []) if one.get("target") != edges.FOLDER
        ]
    used = {one["source"] for body in services.values() for one in body.get("volumes", []) if one["type"] == "volume"}
    body = {
        "version": "3.8",
        "services": services,
        "networks": {
            key: {"external": True, "name": outside[key]["name"]}
            if key in outside
            else {"driver": "overlay", "attachable": True}
            for key in rendered.get("networks") or {}
        },
        "volumes": {
            key: {"name": said["name"]} for key, said in (rendered.get("volumes") or {}).items() if key in used
        },
    }
    secrets = {
        key: document.variables[said["environment"]].encode()
        for key, said in (rendered.get("secrets") or {}).items()
        if said.get("environment") in document.variables
    }
    return Sent(body, secrets, configs)


def _service(name: str, body: Mapping[str, Any], deploy: Deploy) -> dict[str, Any]:
    taken = {key: body[key] for key in PASSED if body.get(key) is not None}
    if body.get("networks"):
        taken["networks"] = {key: {"aliases": [name]} for key in body["networks"]}
    if body.get("volumes"):
        taken["volumes"] = [
            {key: mount[key] for key in ("type", "source", "target", "read_only") if mount.get(key)}
            for mount in body["volumes"]
        ]
    if body.get("ports"):
        taken["ports"] = [
            {
                "target": port["target"],
                "published": int(port["published"]),
                "protocol": port.get("protocol", "tcp"),
                "mode": "host",
            }
            for port in body["ports"]
        ]
    if body.get("secrets"):
        taken["secrets"] = [
            {**one, "target": one.get("target") or one["source"], "mode": int(str(one.get("mode", "0444")), 8)}
            for one in body["secrets"]
        ]
    return {**taken, "deploy": _placement(body, beside=_beside(name, body, deploy), deploy=deploy)}


def _beside(name: str, body: Mapping[str, Any], deploy: Deploy) -> bool:
    """Whether a new task may stand beside the old one: not on one port of a host, and not on one database's volume."""
    return name == deploy.serves or not (body.get("ports") or body.get("volumes"))


def _placement(body: Mapping[str, Any], *, beside: bool, deploy: Deploy) -> dict[str, Any]:
    said = body.get("deploy") or {}
    order = {
        "order": "start-first" if beside else "stop-first",
        "monitor": f"{max(1, round(deploy.observe))}s",
        "parallelism": 1,
    }
    placement = {
        "mode": "replicated",
        "replicas": int(said.get("replicas") or 1),
        # Names lead to the tasks themselves: that needs no routing mesh, which a kernel may lack.
        "endpoint_mode": "dnsrr",
        "update_config": {**order, "failure_action": "rollback"},
        "rollback_config": order,
        "restart_policy": {"condition": "any", "delay": "1s"},
    }
    limits = (said.get("resources") or {}).get("limits") or {}
    memory = limits.get("memory") or body.get("mem_limit")
    if memory:
        placement["resources"] = {"limits": {"memory": str(memory)}}
    return placement


def swarm_changes(
    found: Sequence[Replicated], record: Record, current: Record | None, *, forced: bool
) -> tuple[Change, ...]:
    """What becomes of each service: Swarm itself decides by the definition, which is compared here."""
    running = {one.name: one for one in found}
    changes = []
    for name, placed in record.services.items():
        before = current.services.get(name) if current else None
        if name not in running:
            change = Change(name, "create", "has no service", "none: it does not run yet")
        elif before is None or before.definition != placed.definition or before.image != placed.image:
            change = Change(name, "update", "its definition or image changed", "by its update order")
        elif not running[name].settled or forced:
            change = Change(name, "update", "asked for" if forced else "is not settled", "by its update order")
        else:
            change = Change(name, "keep", "", "none")
        changes.append(change)
    return tuple(changes)


def plan_swarm(release: str, found: Sequence[Change], deploy: Deploy, current: Record | None) -> Plan:
    """The steps of a release on Swarm; none where nothing changes."""
    if all(change.strategy == "keep" for change in found):
        return Plan()
    before = current.id if current else "nothing"
    steps = [
        Step("record", f"release {release}", "before anything is changed"),
        Step("provide", f"secrets of {release}", "named by their content"),
        Step("update", f"stack to {release}", f"from {before}", undo=f"update stack to {before}"),
        Step("await", f"release {release}", "every service has to converge to what was sent"),
    ]
    if deploy.edge is not None:
        steps.append(Step("probe", f"release {release}", "through the edge"))
    return Plan(
        (*steps, Step("commit", f"release {release}", "it serves"), Step("sweep", "secrets", "nothing uses them"))
    )
