"""Spells out what stack.yaml says in terms of something else in it, so that a copy has one place for its name and port.

Values that are not what the model expects are left as they are: it says what is wrong with them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["NAME", "spelled_out"]

NAME = "${name}"
"""Stands for the stack's name in the name of a component's volume."""

EVERYWHERE = ("127.0.0.1", "0.0.0.0", "::", "")  # noqa: S104 - compared, not bound
"""Addresses of `publish` with which a port answers at localhost."""


def spelled_out(document: Any) -> Any:
    """Return a stack file with its volumes named, and with a URL for each environment whose `health` is a path."""
    if not isinstance(document, dict):
        return document
    backup, environments = document.get("backup"), document.get("environments")
    said = dict(document)
    if isinstance(backup, dict):
        components = _each(backup.get("components"), lambda one: _named(one, document.get("name")))
        said["backup"] = {**backup, **({"components": components} if "components" in backup else {})}
    if environments is not None:
        said["environments"] = _each(environments, _asked_at_its_port)
    return said


def _each(section: Any, change: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> Any:
    """Return a mapping of mappings, each of them changed."""
    if not isinstance(section, dict):
        return section
    return {key: change(one) if isinstance(one, dict) else one for key, one in section.items()}


def _named(component: Mapping[str, Any], name: Any) -> Mapping[str, Any]:
    volume = component.get("volume")
    if not isinstance(volume, str) or not isinstance(name, str):
        return component
    return {**component, "volume": volume.replace(NAME, name)}


def _asked_at_its_port(environment: Mapping[str, Any]) -> Mapping[str, Any]:
    health, port, publish = environment.get("health"), environment.get("port"), environment.get("publish", "127.0.0.1")
    if not (isinstance(health, str) and health.startswith("/") and isinstance(port, int) and isinstance(publish, str)):
        return environment
    engine = str(environment.get("engine") or "swarm").removeprefix("swarm+")
    if engine != "swarm" and not engine.startswith("unix:"):
        return environment  # that engine publishes on another machine
    host = "localhost" if publish in EVERYWHERE else f"[{publish}]" if ":" in publish else publish
    return {**environment, "health": f"http://{host}:{port}{health}"}
