"""docs/how-to/deploy.md, A second copy: two copies of the stack side by side, each with an InfluxDB of its own.

tests/test_second_copy.py compares what Compose makes of the two; here both serve, and one of them goes again.
"""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime
from pathlib import Path

import httpx
import yaml

from tests.real import influxdb
from tests.real.road import ROOT, NotHere, Road, Walk, in_use, say
from tests.test_second_copy import OTHER, PORTS

__all__ = ["ROAD"]

NAMES = ("chocolate-factory", "second-factory")

SERVED = {NAMES[0]: (8001, 8000), NAMES[1]: (8101, 8100)}
"""The ports of development and of production, by copy."""

COUNT = """\
from(bucket: "energy_data") |> range(start: 2000-01-01T00:00:00Z, stop: 2100-01-01T00:00:00Z)
 |> filter(fn: (r) => r._measurement == "prices" or r._measurement == "weather") |> group() |> count()"""


def images() -> list[str]:
    """What production pulls; the road takes it off the tailnet."""
    production = yaml.safe_load((ROOT / "compose/prod.yaml").read_text(encoding="utf-8"))["services"]
    return [production[name]["image"] for name in ("influxdb", "edge")]


def road(walk: Walk) -> None:
    """Every step; both copies go at the end."""
    ports = [8086, 8186, *(port for both in SERVED.values() for port in both)]
    if found := [one for name in NAMES for one in in_use(ports, name)]:
        raise NotHere(f"the names of the documentation are in use here: {', '.join(sorted({*found}))}")
    second = Walk(walk.folder.parent / "second", walk.keep, walk.taken, walk.left_out)
    failed = True
    try:
        _side_by_side(walk, second)
        failed = False
    finally:
        if failed and walk.keep:
            say(f"real: kept for looking at it: {walk.folder.parent} and its environments prod and dev, twice")
        else:
            for one in (walk, second):
                _down(one)


def _side_by_side(walk: Walk, second: Walk) -> None:
    subprocess.run(["git", "clone", "--quiet", str(walk.folder), str(second.folder)], check=True)
    _rename(second.folder)
    for number, (name, one) in enumerate(zip(NAMES, (walk, second), strict=True), 1):
        _brought_up(one, name)
        written = "".join(influxdb.lines(week(back)) for back in range(number))
        influxdb.asked(storage(name), "write --precision s -b energy_data", written)
    for number, name in enumerate(NAMES, 1):
        influxdb.require(f"{name} has its own values", values(name) == number * influxdb.A_WEEK)
        for port in SERVED[name]:
            influxdb.require(f"{name} serves on {port}", serves(port))
    for one in (walk, second):
        for environment in ("dev", "prod"):
            one.invoke("env.status", "--env", environment)
    with walk.step("the second copy goes, with its data"):
        _down(second)
    influxdb.require("the first one has its values", values(NAMES[0]) == influxdb.A_WEEK)
    influxdb.require("the first one serves", all(serves(port) for port in SERVED[NAMES[0]]))
    for environment in ("dev", "prod"):
        walk.timed("env.status", "--env", environment)


def _rename(folder: Path) -> None:
    file = folder / "stack.yaml"
    text = file.read_text(encoding="utf-8")
    for old, new in OTHER.items():
        text = text.replace(old, new)
    file.write_text(text, encoding="utf-8")
    (folder / ".env").write_text(PORTS, encoding="utf-8")
    (folder / ".env").chmod(0o600)


def _brought_up(walk: Walk, name: str) -> None:
    for key, value in {"user.name": "walk", "user.email": "walk@example.org", "commit.gpgsign": "false"}.items():
        walk.run("git", "config", key, value)
    with walk.step(f"scripts/quickstart of {name}"):
        walk.run("scripts/quickstart")
    walk.invoke("secrets.init", "--generate")
    walk.run("git", "commit", "--quiet", "--all", "--message", "Secrets of its own")
    with walk.step(f"production of {name}"):
        walk.invoke("images.build", "--env", "prod")
        walk.invoke("env.deploy", "--env", "prod", "--local")


def _down(walk: Walk) -> None:
    """The environments with their data; what never came up has nothing to delete."""
    if (walk.folder / ".venv/bin/python").exists():
        walk.invoke("env.down", "--env", "prod", "--volumes", "--yes", "--confirm", "prod")
        walk.invoke("env.down", "--env", "dev", "--volumes", "--yes")


def week(back: int) -> datetime:
    """A moment that many weeks ago, and one more."""
    return datetime.now(UTC).replace(microsecond=0) - (back + 1) * influxdb.WEEK


def storage(name: str) -> str:
    """The container of a copy's InfluxDB."""
    return f"{name.replace('-', '_')}_storage"


def values(name: str) -> int:
    """How many values the InfluxDB of a copy has."""
    told = influxdb.asked(storage(name), f"query --raw '{COUNT}'").split()
    return int(told[-1].rpartition(",")[2])


def serves(port: int) -> bool:
    """Whether the application answers there that it is healthy."""
    return bool(httpx.get(f"http://localhost:{port}/health", timeout=30).json()["status"] == "healthy")


ROAD = Road("copies", images, road)
