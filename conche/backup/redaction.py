"""Removes secrets from what programs in containers print: it is shown, and kept in manifests that others may read."""

from __future__ import annotations

from conche.backup.site import Site
from conche.engine.connection import Engine
from conche.engine.container_env import secrets_of
from conche.secret import Redactor

__all__ = ["redacting"]


def redacting(site: Site, engine: Engine, container_id: str) -> Redactor:
    """Return a redactor of the stack's secrets, as far as they can be read, and of a container's variables."""
    return Redactor([*site.secrets(), *secrets_of(engine, container_id)])
