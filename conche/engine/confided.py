"""What a container was given in its variables, and so must not be told on by what its programs print."""

from __future__ import annotations

import re
from typing import Any

from conche.engine.connection import Engine, translated
from conche.secret import Secret

__all__ = ["confided"]

_IN_A_URL = re.compile(r"://[^/@\s]*?:([^/@\s]+)@")
"""A password in an address: programs print it without the rest."""


def confided(engine: Engine, container_id: str) -> list[Secret]:
    """Return the values of a container's variables but for its image's own, and the passwords in addresses among them.

    Their names do not say which of them are secret; a container that is gone has none.
    """
    import docker.errors

    api: Any = engine.client.api
    with translated(engine.address):
        try:
            seen = api.inspect_container(container_id)
        except docker.errors.NotFound:
            return []
        try:
            image = api.inspect_image(seen["Image"])
        except docker.errors.NotFound:
            image = {}
    common = {*((image.get("Config") or {}).get("Env") or ())}
    values = [one.partition("=")[2] for one in seen["Config"].get("Env") or () if one not in common]
    return [Secret(one) for value in values for one in (value, *_IN_A_URL.findall(value))]
