"""What stands in a service as Compose renders it: its files, mounts, ports and number."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from conche.engine.ports import Port

__all__ = ["host_files", "images_named", "must_exist", "published_ports", "replicas_of", "seconds"]


def images_named(rendered: Mapping[str, Any], project: str) -> Mapping[str, Any]:
    """The same, with the name that Compose gives the image of a service that is built and names none."""
    bodies = rendered["services"]
    if all(body.get("image") for body in bodies.values()):
        return rendered
    services = {name: {**body, "image": body.get("image") or f"{project}-{name}"} for name, body in bodies.items()}
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
