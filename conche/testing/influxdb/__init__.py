"""A stand-in for the image influxdb:2.7, for use without a registry: its `influx` program, but no server.

What `influx backup` writes, how it fails, and what it hides follow the source of influx-cli 2.7.5. The suite
tests/contract/test_influxdb.py checks that; with CONCHE_TEST_INFLUXDB_IMAGE=influxdb:2.7 it runs against the real
image.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["CONTEXT", "DOCKERFILE"]

CONTEXT = Path(__file__).parent
DOCKERFILE = CONTEXT / "Dockerfile"
