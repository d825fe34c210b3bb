"""Removes secrets from what programs in containers say: it is shown, and kept in a manifest that strangers may read."""

from __future__ import annotations

from conche.backup.site import Site
from conche.engine.confided import confided
from conche.engine.connection import Engine
from conche.secret import Redactor

__all__ = ["redacting"]


def redacting(site: Site, engine: Engine, container_id: str) -> Redactor:
    """Return what removes the stack's secrets, as far as they can be read, and what a container has in variables."""
    return Redactor([*site.secrets(), *confided(engine, container_id)])
