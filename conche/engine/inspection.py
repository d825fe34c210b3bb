"""Describes a container's definition in Compose's terms, as far as inspecting it shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from conche.engine.connection import Engine, translated
from conche.engine.containers import LABEL
from conche.engine.rendered import plain

__all__ = ["as_inspected", "asked_for"]

PLAIN = {"command": "Cmd", "entrypoint": "Entrypoint", "user": "User", "working_dir": "WorkingDir"}
"""Keys of a service and the engine's names for them, in the configuration of containers and images alike."""


def as_inspected(engine: Engine, container_id: str) -> dict[str, Any]:
    """Describe a container's service, without what comes from its image; empty if the container is gone."""
    import docker.errors

    api = engine.client.api
    with translated(engine.address):
        try:
            made = api.inspect_container(container_id)
            image = api.inspect_image(made["Image"])["Config"] or {}  # type: ignore[no-untyped-call]
        except docker.errors.NotFound:
            return {}
    config, host = made["Config"], made["HostConfig"]
    labels = _without(config.get("Labels"), image.get("Labels"))
    policy = host.get("RestartPolicy") or {}
    retries = f":{policy['MaximumRetryCount']}" if policy.get("MaximumRetryCount") else ""
    return {
        "image": config["Image"],
        **{key: config.get(name) if config.get(name) != image.get(name) else None for key, name in PLAIN.items()},
        "environment": _without(_pairs(config.get("Env")), _pairs(image.get("Env"))),
        "labels": {key: value for key, value in labels.items() if not key.startswith(LABEL)},
        "restart": f"{policy.get('Name') or 'no'}{retries}",
        "ports": sorted(
            f"{at['HostIp']}:{at['HostPort']}:{port}"
            for port, bound in (host.get("PortBindings") or {}).items()
            for at in bound or []
        ),
    }


def asked_for(body: Mapping[str, Any], inspected: Mapping[str, Any]) -> dict[str, Any]:
    """Return a rendered service's values for the keys of `as_inspected`, to be compared with `inspected`."""
    said = {key: body.get(key) for key in PLAIN}
    environment = {key: plain(value) for key, value in (body.get("environment") or {}).items() if value is not None}
    found = inspected["environment"]
    return {
        "image": body["image"],
        **{key: [plain(one) for one in value] if isinstance(value, list) else value for key, value in said.items()},
        # `inspected` omits variables that equal the image's own.
        "environment": {key: value for key, value in environment.items() if key in found or value},
        "labels": {key: plain(value) for key, value in (body.get("labels") or {}).items()},
        "restart": str(body.get("restart") or "no"),
        "ports": sorted(
            f"{port.get('host_ip', '')}:{port.get('published', '')}:{port['target']}/{port.get('protocol', 'tcp')}"
            for port in body.get("ports") or []
        ),
    }


def _pairs(variables: Any) -> dict[str, str]:
    return {name: value for name, _, value in (line.partition("=") for line in variables or [])}


def _without(mine: Mapping[str, str] | None, others: Mapping[str, str] | None) -> dict[str, str]:
    return {key: value for key, value in (mine or {}).items() if (others or {}).get(key) != value}
