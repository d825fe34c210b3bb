"""Converts one service of a release to what `docker stack deploy` takes; pure.

What the Compose file says counts. Where it is silent, a new task starts before the old one stops, wherever two may run
side by side, and a service that fails is rolled back.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from conche.engine.rendered import replicas_of
from conche.env.rollout.swarm_keys import PLAIN, RESTART
from conche.release.document import RELEASE, alias
from conche.stack import Deploy

__all__ = ["convert"]

MOUNT = ("type", "source", "target", "read_only", "consistency")

UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def convert(name: str, body: Mapping[str, Any], deploy: Deploy) -> dict[str, Any]:
    """Convert a service from what Compose renders to what Swarm takes."""
    taken = {key: body[key] for key in (*PLAIN, "healthcheck", "logging") if body.get(key) is not None}
    parts = {
        "extra_hosts": [one.replace("=", ":", 1) for one in body.get("extra_hosts") or []],
        "networks": _networks(name, body),
        "volumes": [*_mounts(body), *_temporary(body)],
        "ports": list(_ports(body)),
        "secrets": [_file(one) for one in body.get("secrets") or []],
        "configs": [_file(one) for one in body.get("configs") or []],
    }
    taken.update({key: part for key, part in parts.items() if part})
    return {**taken, "deploy": _deploy(name, body, deploy)}


def _networks(name: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """Return its networks, without the alias that a release has on Compose and its own name, which Swarm adds."""
    own = {name, alias(name, (body.get("labels") or {}).get(RELEASE, ""))}
    given = {key: (said or {}).get("aliases") or [] for key, said in (body.get("networks") or {}).items()}
    return {key: {"aliases": [one for one in names if one not in own]} for key, names in given.items()}


def _mounts(body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for mount in body.get("volumes") or []:
        found = {key: mount[key] for key in MOUNT if mount.get(key)}
        if (mount.get("bind") or {}).get("propagation"):
            found["bind"] = {"propagation": mount["bind"]["propagation"]}
        if (mount.get("volume") or {}).get("nocopy"):
            found["volume"] = {"nocopy": True}
        if (mount.get("tmpfs") or {}).get("size"):
            found["tmpfs"] = {"size": _bytes(mount["tmpfs"]["size"])}
        yield found


def _temporary(body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the entries of `tmpfs:`, which `docker stack deploy` would drop, as mounts."""
    for entry in body.get("tmpfs") or []:
        target, _, options = entry.partition(":")
        sizes = [one.partition("=")[2] for one in options.split(",") if one.startswith("size=")]
        limited = {"tmpfs": {"size": _bytes(sizes[-1])}} if sizes else {}
        yield {"type": "tmpfs", "target": target, **limited}


def _bytes(text: object) -> int:
    found = re.fullmatch(r"(\d+)([bkmg]?)b?", str(text).lower())
    return int(found[1]) * UNITS[found[2]] if found else 0


def _ports(body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield each published port, those of a range one by one; a port without a number is the engine's choice."""
    routed = (body.get("deploy") or {}).get("endpoint_mode") == "vip"
    for port in body.get("ports") or []:
        said = {
            "target": int(port["target"]),
            "protocol": port.get("protocol") or "tcp",
            "mode": (port.get("mode") or "ingress") if routed else "host",
        }
        first, _, last = str(port.get("published") or "").partition("-")
        if not first:
            yield said
            continue
        yield from ({**said, "published": number} for number in range(int(first), int(last or first) + 1))


def _file(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a secret or configuration with its mode as a number; Compose renders a number or octal text."""
    mode = given.get("mode", 0o444)
    return {
        **{key: str(given[key]) for key in ("source", "target", "uid", "gid") if given.get(key) not in (None, "")},
        "mode": mode if isinstance(mode, int) else int(str(mode), 8),
    }


def _deploy(name: str, body: Mapping[str, Any], deploy: Deploy) -> dict[str, Any]:
    said = body.get("deploy") or {}
    order = {
        "order": "start-first" if _beside(name, body, deploy) else "stop-first",
        "monitor": f"{max(1, round(deploy.observe))}s",
        "parallelism": 1,
    }
    found = {
        "mode": said.get("mode") or "replicated",
        # Names lead to the tasks themselves: that needs no routing mesh, which a kernel may lack.
        "endpoint_mode": said.get("endpoint_mode") or "dnsrr",
        "update_config": {**order, "failure_action": "rollback", **(said.get("update_config") or {})},
        "rollback_config": {**order, **(said.get("rollback_config") or {})},
        "restart_policy": said.get("restart_policy") or _restart(str(body.get("restart") or "always")),
    }
    if found["mode"] == "replicated":
        found["replicas"] = replicas_of(body)
    for key, given in (("labels", said.get("labels")), ("placement", said.get("placement"))):
        if given:
            found[key] = given
    resources = _resources(body, said.get("resources") or {})
    return {**found, **({"resources": resources} if resources else {})}


def _beside(name: str, body: Mapping[str, Any], deploy: Deploy) -> bool:
    """Return whether a new task may run beside the old one: not on the same host port, nor on one database's volume."""
    return name == deploy.serves or not (body.get("ports") or body.get("volumes"))


def _restart(said: str) -> dict[str, Any]:
    word, _, most = said.partition(":")
    policy: dict[str, Any] = {"condition": RESTART.get(word, "any"), "delay": "1s"}
    return {**policy, "max_attempts": int(most)} if most else policy


def _resources(body: Mapping[str, Any], said: Mapping[str, Any]) -> dict[str, Any]:
    """Return limits and reservations, from their old names too; CPUs have to be text in a stack file."""
    old = {
        "limits": {"cpus": body.get("cpus"), "memory": body.get("mem_limit"), "pids": body.get("pids_limit")},
        "reservations": {"memory": body.get("mem_reservation")},
    }
    found = {}
    for kind, named in old.items():
        values = {**{key: one for key, one in named.items() if one}, **(said.get(kind) or {})}
        if values:
            found[kind] = {key: str(one) if key in ("cpus", "memory") else one for key, one in values.items()}
    return found
