"""An engine whose API is an object of the test."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from conche.engine.connection import Engine


def answering(api: object) -> Engine:
    """Return an engine that passes every call to `api`."""
    engine: Any = Engine("tcp://nowhere:1")
    engine.client = SimpleNamespace(api=api)
    return engine
