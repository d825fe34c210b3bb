"""Lists, key by key, what of a Compose document a swarm is given; a key in no table here is refused by name.

Swarm takes far less than Compose, and `docker stack deploy` silently leaves out the rest. A service that was told to
run on one node, or to mount another device, must not run without that.
Source: https://docs.docker.com/reference/compose-file/legacy-versions/
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_address
from typing import Any

__all__ = ["PLAIN", "RESTART", "uncarried", "unordered"]

PLAIN = (
    "cap_add", "cap_drop", "command", "dns", "dns_search", "entrypoint", "environment", "hostname", "image", "init",
    "isolation", "labels", "read_only", "stdin_open", "stop_grace_period", "stop_signal", "sysctls", "tty", "ulimits",
    "user", "working_dir",
)  # fmt: skip
"""Keys of a service that Swarm takes as Compose renders them."""

RESTART = {"no": "none", "always": "any", "unless-stopped": "any", "on-failure": "on-failure"}
"""Restart policy: Compose's name -> Swarm's."""

ALL: Mapping[str, Any] = {}
"""The whole value, whatever is in it."""

EACH = "*"
"""Every key of a mapping."""

_UPDATE = dict.fromkeys(("parallelism", "delay", "failure_action", "monitor", "max_failure_ratio", "order"), ALL)
_FILE = dict.fromkeys(("source", "target", "uid", "gid", "mode"), ALL)
_SERVICE: Mapping[str, Any] = {
    **dict.fromkeys(PLAIN, ALL),
    "configs": _FILE,
    "cpus": ALL,
    "deploy": {
        "endpoint_mode": ALL,
        "labels": ALL,
        "mode": ALL,
        "placement": {"constraints": ALL, "preferences": {"spread": ALL}, "max_replicas_per_node": ALL},
        "replicas": ALL,
        "resources": {
            "limits": dict.fromkeys(("cpus", "memory", "pids"), ALL),
            "reservations": {
                "cpus": ALL,
                "memory": ALL,
                "generic_resources": {"discrete_resource_spec": {"kind": ALL, "value": ALL}},
            },
        },
        "restart_policy": dict.fromkeys(("condition", "delay", "max_attempts", "window"), ALL),
        "rollback_config": _UPDATE,
        "update_config": _UPDATE,
    },
    "extra_hosts": ALL,
    "healthcheck": dict.fromkeys(("test", "interval", "timeout", "retries", "start_period", "disable"), ALL),
    "logging": {"driver": ALL, "options": ALL},
    "mem_limit": ALL,
    "mem_reservation": ALL,
    "networks": {EACH: {"aliases": ALL}},
    "pids_limit": ALL,
    "ports": dict.fromkeys(("target", "published", "protocol", "mode", "host_ip", "name", "app_protocol"), ALL),
    "restart": ALL,
    "scale": ALL,
    "secrets": _FILE,
    "tmpfs": ALL,
    "volumes": {
        "type": ALL,
        "source": ALL,
        "target": ALL,
        "read_only": ALL,
        "consistency": ALL,
        "bind": {"propagation": ALL, "create_host_path": ALL},
        "volume": {"nocopy": ALL},
        "tmpfs": {"size": ALL},
    },
    # They say nothing about what runs, only how to get an image and which services are meant. Order: see `unordered`.
    **dict.fromkeys(("attach", "build", "depends_on", "develop", "expose", "profiles", "pull_policy"), ALL),
}
_DOCUMENT: Mapping[str, Any] = {
    "name": ALL,
    "version": ALL,
    "services": {EACH: _SERVICE},
    "networks": {
        EACH: {
            **dict.fromkeys(("name", "driver", "driver_opts", "attachable", "internal", "external", "labels"), ALL),
            "ipam": {"driver": ALL, "config": {"subnet": ALL}},
        }
    },
    "volumes": {EACH: dict.fromkeys(("name", "driver", "driver_opts", "external", "labels"), ALL)},
    "configs": {EACH: dict.fromkeys(("name", "file", "content", "external", "labels"), ALL)},
    "secrets": {EACH: dict.fromkeys(("name", "file", "external", "labels"), ALL)},
}

_UNSET: tuple[Any, ...] = (None, "", [], {})
_OFF = ("enable_ipv6", "oom_kill_disable", "privileged")
"""Keys for which `false` means the same as leaving them out."""

_TMPFS = ("size",)
"""Options of a `tmpfs:` entry that a Swarm mount can have."""


def uncarried(document: Mapping[str, Any]) -> list[str]:
    """Return every key and value of a rendered Compose document that a swarm would run without."""
    return [*_unknown(document, _DOCUMENT, ""), *_values(document)]


def _unknown(found: Any, known: Mapping[str, Any], at: str) -> Iterator[str]:
    if known is ALL:
        return
    if isinstance(found, Sequence) and not isinstance(found, str):
        for number, one in enumerate(found):
            yield from _unknown(one, known, f"{at}[{number}]")
        return
    for key, value in found.items() if isinstance(found, Mapping) else ():
        if value in _UNSET or str(key).startswith("x-") or (key in _OFF and value is False):
            continue
        path = f"{at}.{key}" if at else str(key)
        if EACH in known or key in known:
            yield from _unknown(value, known.get(key, known.get(EACH)), path)
        else:
            yield f"{path}: is not supported on a swarm"


def _values(document: Mapping[str, Any]) -> Iterator[str]:
    for name, body in document["services"].items():
        yield from _of_service(f"services.{name}", body)
    for key, said in (document.get("networks") or {}).items():
        driver = (said or {}).get("driver") or "overlay"
        if driver != "overlay" and not said.get("external"):
            yield f"networks.{key}.driver: {driver} networks do not span nodes; use overlay"


def _of_service(at: str, body: Mapping[str, Any]) -> Iterator[str]:
    mode = (body.get("deploy") or {}).get("mode") or "replicated"
    if mode not in ("replicated", "global"):
        yield f"{at}.deploy.mode: {mode} is not supported here; replicated and global are"
    if str(body.get("restart") or "no").partition(":")[0] not in RESTART:
        yield f"{at}.restart: {body['restart']} is not one of {', '.join(RESTART)}"
    for number, mount in enumerate(body.get("volumes") or []):
        if mount["type"] not in ("volume", "bind", "tmpfs"):
            yield f"{at}.volumes[{number}]: {mount['type']} mounts are not supported"
    for entry in body.get("tmpfs") or []:
        strange = [one for one in entry.partition(":")[2].split(",") if one and one.partition("=")[0] not in _TMPFS]
        if strange:
            yield f"{at}.tmpfs: {entry}: a swarm does not support {', '.join(strange)}"
    for other, how in (body.get("depends_on") or {}).items():
        if how.get("condition") == "service_completed_successfully":
            yield f"{at}.depends_on.{other}: a swarm starts services in no order and would not wait for it to complete"


def unordered(document: Mapping[str, Any]) -> list[str]:
    """Describe what a swarm does differently from the files, where that is tolerable."""
    said = []
    for name, body in document["services"].items():
        waits = [
            one for one, how in (body.get("depends_on") or {}).items() if how.get("condition") == "service_healthy"
        ]
        if waits:
            said.append(f"{name} does not wait for {', '.join(waits)}: a swarm starts services in no order")
        bound = [str(port.get("published") or port["target"]) for port in body.get("ports") or [] if _bound(port)]
        if bound:
            said.append(
                f"{name} publishes {', '.join(bound)} on every address of its node: a swarm cannot bind to one address"
            )
    return said


def _bound(port: Mapping[str, Any]) -> bool:
    address = str(port.get("host_ip") or "::")
    return not ip_address(address.strip("[]")).is_unspecified
