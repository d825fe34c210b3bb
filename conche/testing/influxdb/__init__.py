"""A stand-in for the image influxdb:2.7, where no registry can be reached: its `influx` program, and no server.

What `influx backup` writes, how it fails, and what it hides are those of influx-cli 2.7.5 as read in its source. The
suite tests/contract/test_influxdb.py holds it to that; with CONCHE_TEST_INFLUXDB_IMAGE=influxdb:2.7 the same suite runs
against the real image.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["CONTEXT", "DOCKERFILE"]

CONTEXT = Path(__file__).parent
DOCKERFILE = CONTEXT / "Dockerfile"
