"""Reads a service as Compose renders it: its files, mounts, ports, replicas and healthcheck."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from conche.engine.ports import Port
from conche.errors import Refused

__all__ = [
    "Healthcheck",
    "altered",
    "flat",
    "healthcheck_of",
    "host_files",
    "must_exist",
    "named_twice",
    "plain",
    "published_ports",
    "readable",
    "replicas_of",
    "seconds",
    "understood",
]

LEFT_OUT = frozenset({"build", "pull_policy", "scale", "deploy.replicas"})
"""Keys that Compose does not hash: changing one recreates no container."""

MOST_NAMED = 8
"""Most names to list in one sentence."""


@dataclass(frozen=True)
class Healthcheck:
    """A service's healthcheck, with Docker's defaults for what the Compose file omits.

    Source: https://docs.docker.com/reference/dockerfile/#healthcheck
    """

    interval: float = 30.0
    timeout: float = 30.0
    retries: int = 3
    start_period: float = 0.0

    @property
    def deadline(self) -> float:
        """Seconds within which a working container is found healthy."""
        return self.start_period + (self.interval + self.timeout) * self.retries


def plain(value: Any) -> str:
    """Return a rendered text as it is meant: Compose doubles each `$` in what it renders."""
    return str(value).replace("$$", "$")


def readable(rendered: dict[str, Any]) -> dict[str, Any]:
    """Return a rendered document as Compose reads it: it renders a few values in forms that it refuses.

    It leaves out a limit of 0 (`core: {}`) and the content of an empty config, and writes a size below 0, which means
    none, as text.
    """
    services = {}
    for name, body in rendered["services"].items():
        services[name] = {key: _size(value) if key in _SIZES else value for key, value in _limited(body).items()}
        if body.get("build"):
            services[name]["build"] = _limited(body["build"])
    configs = {key: _sourced(said) for key, said in (rendered.get("configs") or {}).items()}
    return {**rendered, "services": services, **({"configs": configs} if configs else {})}


def _sourced(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a config with the content that Compose leaves out if it is empty."""
    said = any(config.get(key) for key in ("file", "environment", "content", "external"))
    return config if said else {**config, "content": ""}


_SIZES = frozenset({"mem_limit", "mem_reservation", "mem_swappiness", "memswap_limit", "shm_size"})


def _size(value: Any) -> Any:
    return int(value) if str(value).startswith("-") else value


def _limited(body: Mapping[str, Any]) -> dict[str, Any]:
    limits = {
        name: {"soft": 0, "hard": 0, **limit} if isinstance(limit, Mapping) else limit
        for name, limit in (body.get("ulimits") or {}).items()
    }
    return {**body, "ulimits": limits} if limits else dict(body)


def understood(rendered: Mapping[str, Any], project: str) -> Mapping[str, Any]:
    """Complete a rendered document with what Compose leaves implicit.

    A built service without an image name gets the name that Compose gives it. Optional dependencies on absent services
    are removed: Compose renders them, but refuses a document that has them.
    """
    bodies = rendered["services"]
    services = {}
    for name, body in bodies.items():
        needs = {other: how for other, how in (body.get("depends_on") or {}).items() if other in bodies}
        services[name] = {**body, "image": body.get("image") or f"{project}-{name}"}
        if "depends_on" in body:
            services[name]["depends_on"] = needs
    return {**rendered, "services": services}


def named_twice(
    services: Mapping[str, Mapping[str, Any]], environment: str, project: str, looked_at: Sequence[str] = ()
) -> Refused | None:
    """Return the error for two services with one name for their containers: an engine makes only one of them."""
    holders: dict[str, str] = {}
    for service, body in services.items():
        wanted = body.get("container_name")
        other = holders.setdefault(wanted, service) if wanted else service
        if other != service:
            return Refused(
                "container-name-twice",
                f"The services {other} and {service} of {environment} both have container_name: {wanted}.",
                looked_at=looked_at,
                next_command=f"give one of them another name, or none: Compose then calls it {project}-{service}-1",
            )
    return None


def host_files(body: Mapping[str, Any], rendered: Mapping[str, Any], kind: str) -> tuple[Path, ...]:
    """Return the host files of a service's secrets or configs, as `kind` says."""
    defined = rendered.get(kind) or {}
    named = [(defined.get(given["source"]) or {}).get("file") for given in body.get(kind) or []]
    return tuple(Path(plain(file)) for file in named if file)


def published_ports(published: Sequence[Mapping[str, Any]]) -> Iterator[Port]:
    """Yield the ports published by number; Compose leaves a range, such as 3000-3005, of which any will do, as text."""
    for port in published:
        first, _, last = str(port.get("published") or "").partition("-")
        if first and int(first):
            yield Port(port.get("host_ip", ""), int(first), port.get("protocol", "tcp"), int(last or 0))


def must_exist(mount: Mapping[str, Any], release: Callable[[], tuple[int, ...]]) -> bool:
    """Return whether a mount needs an existing host folder, which neither Compose nor the engine creates.

    Compose 5 leaves `create_host_path` out where it is true, as for each mount in the short form, and earlier ones
    where it is false. From 2.30 on, a mount with no such options at all is given to the engine in a form that creates
    the folder. Source: `bindRequiresMountAPI` of https://github.com/docker/compose/blob/main/pkg/compose/create.go

    Args:
        release: returns Compose's version, such as 2, 26; called only if it matters.
    """
    if mount["type"] != "bind":
        return False
    said = (mount.get("bind") or {}).get("create_host_path")
    if said is not None:
        return not said
    return release() < ((2, 30) if mount.get("bind") is None else (5,))


def replicas_of(body: Mapping[str, Any]) -> int:
    """Return how many containers Compose gives a rendered service; `scale` and `replicas` agree if both are set.

    Source: `GetScale` of https://github.com/compose-spec/compose-go/blob/main/types/types.go
    """
    said = (body.get("scale"), (body.get("deploy") or {}).get("replicas"), 1)
    return next(int(one) for one in said if one is not None)


_UNITS = {"h": "hours", "m": "minutes", "s": "seconds", "ms": "milliseconds", "us": "microseconds"}


def seconds(duration: str | None, default: float) -> float:
    """Convert Go's duration notation, such as 1m30s, to seconds."""
    parts = re.findall(r"([0-9.]+)(h|ms|us|m|s)", duration or "")
    if not parts:
        return default
    return timedelta(**{_UNITS[unit]: float(number) for number, unit in parts}).total_seconds()


def healthcheck_of(body: Mapping[str, Any] | None) -> Healthcheck | None:
    """Return a service's healthcheck; None if it has none or has disabled it."""
    if not body or body.get("disable") or body.get("test") == ["NONE"]:
        return None
    default = Healthcheck()
    return Healthcheck(
        interval=seconds(body.get("interval"), default.interval),
        timeout=seconds(body.get("timeout"), default.timeout),
        retries=int(body.get("retries") or default.retries),
        start_period=seconds(body.get("start_period"), default.start_period),
    )


def flat(body: Mapping[str, Any]) -> dict[str, str]:
    """Return a service's keys with their values as JSON; those of mappings one by one, such as `environment.LEVEL`."""
    found = {}
    for key, value in body.items():
        if isinstance(value, Mapping):
            found.update({f"{key}.{below}": json.dumps(one, sort_keys=True) for below, one in value.items()})
        elif value not in (None, [], ""):
            found[key] = json.dumps(value, sort_keys=True)
    return {key: value for key, value in found.items() if key not in LEFT_OUT and key.split(".")[0] not in LEFT_OUT}


def altered(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[str, ...]:
    """Return the keys in which two flat definitions differ, in order."""
    names = sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
    return (*names[:MOST_NAMED], f"and {len(names) - MOST_NAMED} more") if len(names) > MOST_NAMED else tuple(names)
