"""InfluxDB 2 by the `influx` program in its own container.

The operator token is read inside the container: it stands in no argv and leaves it in no output. The exit code of
`influx backup` says little: a wrong bucket name and a shard that has gone end with 0, so its words and its files are
looked at.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from conche.engine.connection import Engine
from conche.engine.containers import Container
from conche.errors import ConcheError
from conche.process import Captured, Completed, run

__all__ = ["CONFIG", "DATA", "Influx", "InfluxFailed"]

DATA, CONFIG = "/var/lib/influxdb2", "/etc/influxdb2"

CALL = """
if [ -r "$1" ]; then INFLUX_TOKEN=$(cat "$1"); export INFLUX_TOKEN; fi
shift
exec influx "$@"
"""
ORG = """
if [ -r "$1" ]; then INFLUX_TOKEN=$(cat "$1"); export INFLUX_TOKEN; fi
shift
exec influx "$@" --org "${INFLUX_ORG:-$DOCKER_INFLUXDB_INIT_ORG}"
"""

HOUR = 3600.0
BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)


class InfluxFailed(ConcheError):
    """The influx program ended with an error."""

    exit_code = 9


@dataclass(frozen=True)
class Influx:
    """An InfluxDB that runs in a container.

    Attributes:
        token_file: file in the container with the operator token.
    """

    engine: Engine
    container: Container
    token_file: str

    def backup(self, folder: str) -> tuple[str, ...]:
        """Back everything up into a folder of the container; the warnings it gave."""
        done = self._call(CALL, "backup", folder)
        return tuple(line for line in (*done.stderr.lines(), *done.stdout.lines()) if re.search(r"\bWARN\b", line))

    def restore_all(self, folder: str) -> None:
        """Replace everything, tokens and users too, by a backup in a folder of the container."""
        self._call(CALL, "restore", folder, "--full")

    def restore_bucket(self, folder: str, bucket: str, new: str) -> None:
        """Restore one bucket under another name; nothing else is touched."""
        self._call(CALL, "restore", folder, "--bucket", bucket, "--new-bucket", new)

    def buckets(self) -> tuple[str, ...]:
        """The names of the buckets, without InfluxDB's own."""
        listed = json.loads(self._call(ORG, "bucket", "list", "--json").stdout.raw)
        return tuple(sorted(one["name"] for one in listed if not one["name"].startswith("_")))

    def delete_bucket(self, name: str) -> None:
        """Delete a bucket and what is in it."""
        self._call(ORG, "bucket", "delete", "--name", name)

    def counts(self, bucket: str, start: datetime, stop: datetime) -> dict[str, int]:
        """Values of each measurement from `start` up to, and without, `stop`: one for each field of a point."""
        flux = (
            f'from(bucket: "{bucket}") |> range(start: {_flux(start)}, stop: {_flux(stop)})'
            ' |> group(columns: ["_measurement"]) |> count()'
        )
        return _counted(self._call(ORG, "query", flux, "--raw").stdout.raw)

    def delete(self, bucket: str, start: datetime, stop: datetime) -> None:
        """Delete what lies between two moments."""
        self._call(ORG, "delete", "--bucket", bucket, "--start", _flux(start), "--stop", _flux(stop))

    def make(self, folder: str) -> None:
        """Make a private folder in the container."""
        self._exec(["mkdir", "-m", "700", folder]).require("making a folder in the container")

    def remove(self, folder: str) -> None:
        """Remove a folder that was made here; the container may be gone."""
        self._exec(["rm", "-rf", folder])

    def _call(self, script: str, *words: str) -> Completed:
        done = self._exec(["sh", "-euc", script, "sh", self.token_file, *words])
        if not done.ok:
            raise InfluxFailed(
                "influx-failed",
                f"influx {' '.join(words[:2])} ended with {done.exit_code}.",
                looked_at=[f"container {self.container.name}, token in {self.token_file}"],
                evidence=done.last_lines(6),
                next_command=_advice(done.stderr, self.container.name),
            )
        return done

    def _exec(self, argv: list[str]) -> Completed:
        call = ["docker", "exec", "--user", "0:0", self.container.id, *argv]
        return run(call, extra_env=self.engine.cli_environment(), timeout=HOUR)


def _advice(said: Captured, container: str) -> str:
    words = said.raw
    if "401" in words or "unauthorized" in words:
        return "give it the operator token: an all-access token may not back up or restore"
    return f"docker logs --tail 50 {container}"


def _flux(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def _counted(annotated: str) -> dict[str, int]:
    """Annotated CSV: comment lines, then tables, each with a head of its own."""
    counts: dict[str, int] = {}
    head: Mapping[str, int] = {}
    for row in csv.reader(line for line in annotated.splitlines() if line and not line.startswith("#")):
        if "_value" in row and "_measurement" in row:
            head = {name: place for place, name in enumerate(row)}
        elif head:
            name = row[head["_measurement"]]
            counts[name] = counts.get(name, 0) + int(row[head["_value"]])
    return counts
