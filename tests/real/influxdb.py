"""docs/how-to/backup.md on a real InfluxDB: what we believe of it, many values, and restores that are killed.

In a stack of its own, beside whatever runs. `CONCHE_TEST_INFLUXDB_IMAGE` names another image than compose/prod.yaml.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import yaml

from conche.engine.connection import Engine
from tests.backup.databases import Database
from tests.real.road import ROOT, Failed, Road, Walk
from tests.stacks import SmallStack, free_port

__all__ = ["ROAD"]

IMAGE = "CONCHE_TEST_INFLUXDB_IMAGE"

BELIEFS = ("tests/contract/test_influxdb.py", "tests/backup/test_influxdb.py", "tests/backup/test_running.py")

WEEK = timedelta(days=7)
WEEKS, A_WEEK = 60, 5000
"""Weeks of the past with values, which are as many shards, and the values of each."""

KILLS = 12
"""At so many moments of a restore it is killed."""

BY_WEEK = """\
from(bucket: "energy") |> range(start: 2000-01-03T00:00:00Z, stop: 2100-01-04T00:00:00Z)
 |> group(columns: ["_measurement"]) |> window(every: 1w) |> count()"""

Seen = Mapping[str, int]


def images() -> list[str]:
    """The one that production runs."""
    written = yaml.safe_load((ROOT / "compose/prod.yaml").read_text(encoding="utf-8"))["services"]
    return [os.environ.get(IMAGE) or written["influxdb"]["image"]]


def road(walk: Walk) -> None:
    """Every step; the stack goes at the end."""
    [image] = images()
    with walk.step("what the tests believe of it"):
        argv = ("-m", "pytest", "-q", "-p", "no:cacheprovider", *BELIEFS)
        walk.run(sys.executable, *argv, variables={IMAGE: image})
    engine = Engine()
    stack = SmallStack.create(walk.folder.parent / "database", free_port())
    try:
        with walk.step("first start"):
            database = Database.create(stack, engine, image)
        begun = datetime.now(UTC).replace(microsecond=0) - WEEKS * WEEK
        with walk.step(f"{WEEKS * A_WEEK} values in {WEEKS} weeks"):
            for week in range(WEEKS):
                database.write(lines(begun + week * WEEK))
        backed_up(walk, database)
    finally:
        stack.remove_all(engine)


def lines(begun: datetime) -> str:
    """The values of a week, of two measurements."""
    first, step = int(begun.timestamp()), int(WEEK.total_seconds()) // A_WEEK
    return "".join(f"{('prices', 'weather')[n % 2]} value={n} {first + n * step}\n" for n in range(A_WEEK))


def backed_up(walk: Walk, database: Database) -> None:
    """Backup, trial, restore, restores that are killed, and the end of old data."""
    old = seen(database)
    name = invoked(walk, database, "backup.create")["name"]
    invoked(walk, database, "backup.drill")
    database.write(lines(datetime.now(UTC).replace(microsecond=0)))
    new = seen(database)
    require("what was written later is there", len(new) > len(old))
    words = ("backup.restore", name, "--force")
    begun = time.perf_counter()
    invoked(walk, database, *words)
    took = time.perf_counter() - begun
    require("a restore brings back what was backed up", seen(database) == old)
    for number in range(KILLS):
        killed(walk, database, took * (number + 1) / KILLS, words, (old, new))
    invoked(walk, database, "env.influx.prune", "--older-than", "26w", "--env", "dev", "--yes")
    require("the younger half is left", 0 < sum(seen(database).values()) < sum(old.values()))


def killed(walk: Walk, database: Database, seconds: float, words: tuple[str, ...], either: tuple[Seen, Seen]) -> None:
    """One restore that is killed after some seconds: afterwards all is as before it or as in the backup."""
    stack = database.stack
    with walk.step(f"restore killed after {seconds:.1f} s, and settled"):
        process = subprocess.Popen(
            stack.argv(*words), cwd=stack.folder, env=stack.environment(),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        done = stack.invoke("backup.settle")
    if done.returncode != 0:
        raise Failed(f"backup.settle ended with {done.returncode}\n{done.stderr}")
    require("it is as before or as in the backup", seen(database) in either)
    require("no dump is left in the container", database.sh("ls -d /tmp/conche-* 2>/dev/null || :") == "")


def seen(database: Database) -> Seen:
    """How many values there are, by measurement and week."""
    told = database.influx_says(f"query --org factory --raw '{BY_WEEK}'").splitlines()
    rows = csv.DictReader(line for line in told if line and not line.startswith("#"))
    return {f"{row['_measurement']} {row['_start']}": int(row["_value"]) for row in rows if row["_value"] != "_value"}


def invoked(walk: Walk, database: Database, *words: str) -> Mapping[str, str]:
    """The value of a task that works, timed."""
    with walk.step("invoke " + " ".join(words)):
        told = database.stack.json(*words)
    if told["value"] is None:
        raise Failed(f"invoke {' '.join(words)}: {told['error']}")
    found: Mapping[str, str] = told["value"]
    return found


def asked(container: str, words: str, given: str = "") -> str:
    """What an InfluxDB of this repository's stack answers to its own program.

    Args:
        given: the program's standard input.
    """
    script = f"INFLUX_TOKEN=$(cat /run/secrets/influxdb_token) exec influx {words} --org chocolate_factory"
    argv = ["docker", "exec", "--interactive", container, "sh", "-c", script]
    done = subprocess.run(argv, input=given, capture_output=True, text=True, check=False)
    require(f"influx {words[:40]} works: {done.stderr}", done.returncode == 0)
    return done.stdout


def require(what: str, holds: bool) -> None:
    """See that something holds."""
    if not holds:
        raise Failed(f"not so: {what}")


ROAD = Road("influxdb", images, road)
