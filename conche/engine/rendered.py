"""What stands in a service as Compose renders it: its files, mounts, ports and number."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from conche.engine.ports import Port

__all__ = [
    "Healthcheck",
    "healthcheck_of",
    "host_files",
    "must_exist",
    "published_ports",
    "replicas_of",
    "seconds",
    "understood",
]


@dataclass(frozen=True)
class Healthcheck:
    """A service's healthcheck; Docker's defaults where the Compose file is silent.

    Source: https://docs.docker.com/reference/dockerfile/#healthcheck
    """

    interval: float = 30.0
    timeout: float = 30.0
    retries: int = 3
    start_period: float = 0.0

    @property
    def deadline(self) -> float:
        """Seconds after which a container that works has been found healthy."""
        return self.start_period + (self.interval + self.timeout) * self.retries


def understood(rendered: Mapping[str, Any], project: str) -> Mapping[str, Any]:
    """The same, with what Compose knows beside it.

    A service that is built and names no image has the name that Compose gives it; what a service need not depend on,
    and which is not there, is left out: Compose renders it, and refuses the document for it.
    """
    bodies = rendered["services"]
    services = {}
    for name, body in bodies.items():
        needs = {other: how for other, how in (body.get("depends_on") or {}).items() if other in bodies}
        services[name] = {**body, "image": body.get("image") or f"{project}-{name}"}
        if "depends_on" in body:
            services[name]["depends_on"] = needs
    return {**rendered, "services": services}


def host_files(body: Mapping[str, Any], rendered: Mapping[str, Any], kind: str) -> tuple[Path, ...]:
    """The host files of a service's secrets, or of its configs."""
    defined = rendered.get(kind) or {}
    named = [(defined.get(given["source"]) or {}).get("file") for given in body.get(kind) or []]
    return tuple(Path(file) for file in named if file)


def published_ports(published: Sequence[Mapping[str, Any]]) -> Iterator[Port]:
    """The ports published by number; Compose leaves a range, such as 3000-3005, of which any one will do, as text."""
    for port in published:
        first, _, last = str(port.get("published") or "").partition("-")
        if first and int(first):
            yield Port(port.get("host_ip", ""), int(first), port.get("protocol", "tcp"), int(last or 0))


def must_exist(mount: Mapping[str, Any]) -> bool:
    """Whether a mount is of a host folder that nobody makes."""
    return mount["type"] == "bind" and not (mount.get("bind") or {}).get("create_host_path")


def replicas_of(body: Mapping[str, Any]) -> int:
    """How many containers Compose gives a service, as it renders it; one that says both says the same twice.

    `GetScale` of https://github.com/compose-spec/compose-go/blob/main/types/types.go
    """
    said = (body.get("scale"), (body.get("deploy") or {}).get("replicas"), 1)
    return next(int(one) for one in said if one is not None)


_UNITS = {"h": "hours", "m": "minutes", "s": "seconds", "ms": "milliseconds", "us": "microseconds"}


def seconds(duration: str | None, default: float) -> float:
    """Go's duration notation, such as 1m30s, in seconds."""
    parts = re.findall(r"([0-9.]+)(h|ms|us|m|s)", duration or "")
    if not parts:
        return default
    return timedelta(**{_UNITS[unit]: float(number) for number, unit in parts}).total_seconds()


def healthcheck_of(body: Mapping[str, Any] | None) -> Healthcheck | None:
    """A service's healthcheck; None where it has none, or none any more."""
    if not body or body.get("disable") or body.get("test") == ["NONE"]:
        return None
    default = Healthcheck()
    return Healthcheck(
        interval=seconds(body.get("interval"), default.interval),
        timeout=seconds(body.get("timeout"), default.timeout),
        retries=int(body.get("retries") or default.retries),
        start_period=seconds(body.get("start_period"), default.start_period),
    )
