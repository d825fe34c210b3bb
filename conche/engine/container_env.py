"""The environment variables that a container was given: their values are removed from what its programs print."""

from __future__ import annotations

from typing import Any

from conche.engine.connection import Engine, translated
from conche.secret import PASSWORD_IN_URL, Secret, is_secret

__all__ = ["secrets_of"]


def secrets_of(engine: Engine, container_id: str) -> list[Secret]:
    """Return the secrets in a container's variables, except those that its image sets, and the passwords in URLs there.

    A container that is gone has none.
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
    pairs = [one.partition("=") for one in seen["Config"].get("Env") or () if one not in common]
    values = [value for name, _, value in pairs if is_secret(name, value)]
    return [Secret(one) for value in values for one in (value, *PASSWORD_IN_URL.findall(value))]
