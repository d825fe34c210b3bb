"""Talks to InfluxDB 2 through the `influx` program in its own container.

The operator token is read inside the container: it appears in no argv and in no output. The exit code of
`influx backup` says little: it is 0 even for a wrong bucket name or a missing shard, so its output and files are
examined.
"""

from __future__ import annotations

import csv
import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal

from conche.backup.manifest import human_size
from conche.engine import programs
from conche.engine.connection import Engine
from conche.engine.containers import Container
from conche.errors import ConcheError, NotFound, Refused, Unreachable
from conche.process import Captured, Completed
from conche.secret import Secret

__all__ = ["CONFIG", "DATA", "Authorization", "Influx", "InfluxFailed"]

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

ASK = """
[ -r "$1" ] || exit 77
INFLUX_TOKEN=$(cat "$1"); export INFLUX_TOKEN
exec influx bucket list --json --org "${INFLUX_ORG:-$DOCKER_INFLUXDB_INIT_ORG}"
"""
GIVEN = """
INFLUX_TOKEN=$(cat); export INFLUX_TOKEN
exec influx auth list --json
"""
GIVEN_ORG = """
INFLUX_TOKEN=$(cat); export INFLUX_TOKEN
exec influx "$@" --org "${INFLUX_ORG:-$DOCKER_INFLUXDB_INIT_ORG}"
"""
PUT = """
cp -p "$1" "$1.conche"
cat > "$1.conche"
mv "$1.conche" "$1"
"""
"""Replaces a file's content at once; owner and mode stay."""

NO_TOKEN = 77
ROOM = 'df -Pk "$1" | tail -n 1 | { read -r _ _ _ free _; echo "$free"; }; du -sk "$2" | cut -f 1'

SETTLED = "influxdb"
RENAME = f"""
cd "$1"
set -- *.manifest
[ "$#" = 1 ] && [ -e "$1" ] || exit 0
time=${{1%.manifest}}
for file in "$time".*; do mv "$file" "{SETTLED}${{file#"$time"}}"; done
sed -i "s/\"$time[.]/\"{SETTLED}./g" {SETTLED}.manifest
touch -t 197001010000 {SETTLED}.*
"""
"""Takes the time out of the names of a backup: a shard that has not changed is then the same file in the next one."""

NO_SNAPSHOT = "failed to download snapshot of shard"
"""What `influx backup` says where the server answers 500 for a shard: its cache cannot be written to disk just now.

That is so while it is being written already, and where a value came just as InfluxDB took the shard for idle. The
server looks at idle shards every ten seconds (tsdb/store.go, monitorShards, of InfluxDB 2.7.12).
"""
PAUSES = (12.0, 12.0)
"""Seconds before it is tried again."""

EMPTY = 'rm -rf "$1"; mkdir -m 700 "$1"'

ANSWER, QUERY, COPY = 60.0, 600.0, 3600.0
"""Time limits in seconds for simple requests, for queries over the data, and for copying all of them.

A server that has locked itself up never answers: deleting a bucket with a damaged block has that effect.
"""

BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)


class InfluxFailed(ConcheError):
    """The influx program ended with an error."""

    exit_code = 9


@dataclass(frozen=True)
class Authorization:
    """A token that the server knows."""

    id: str
    token: Secret
    description: str


@dataclass(frozen=True)
class Influx:
    """An InfluxDB that runs in a container.

    Attributes:
        token_file: the file in the container with the operator token.
        number: the number that marks our programs in the container.
        otherwise: if that token is refused, try the one in the container's own configuration: after a restore that may
            be the valid one.
        refused: the commands for which the token was refused.
    """

    engine: Engine
    container: Container
    token_file: str
    number: str = field(default_factory=programs.new_number)
    otherwise: bool = False
    refused: list[str] = field(default_factory=list)

    def token(self) -> Literal["valid", "refused", "absent"]:
        """Return what the server thinks of the token in the file."""
        done = self._exec("influx bucket list", ["sh", "-euc", ASK, "sh", self.token_file], ANSWER)
        if done.exit_code == NO_TOKEN:
            return "absent"
        return "refused" if _is_refused(done) else "valid"

    def authorizations(self, token: Secret | None = None) -> tuple[Authorization, ...]:
        """Return the tokens that the server knows; all of them are only told to an operator token.

        Args:
            token: ask with this token; default: the one in the file.

        Raises:
            InfluxFailed: the token is refused.
        """
        if token is None:
            done = self._call(CALL, "auth", "list", "--json", seconds=ANSWER)
        else:
            given = token.reveal().encode()
            done = self._exec("influx auth list", ["sh", "-euc", GIVEN], ANSWER, stdin=given)
            if not done.ok:
                raise InfluxFailed(
                    "influx-failed",
                    f"influx auth list exited with {done.exit_code}.",
                    looked_at=[f"container {self.container.name}, with a token from the secrets"],
                    evidence=done.stderr.lines()[-3:],
                )
        listed = json.loads(done.stdout.raw)
        return tuple(Authorization(one["id"], Secret(one["token"]), one.get("description", "")) for one in listed)

    def make_operator(self, description: str) -> None:
        """Make another operator token; `authorizations` has it."""
        self._call(ORG, "auth", "create", "--operator", "--json", "--description", description, seconds=ANSWER)

    def make_reader(self, description: str, buckets: Sequence[str]) -> None:
        """Make a token that may read these buckets and nothing else; `authorizations` has it.

        Raises:
            NotFound: there is no such bucket.
        """
        listed = json.loads(self._call(ORG, "bucket", "list", "--json", seconds=ANSWER).stdout.raw)
        known = {one["name"]: one["id"] for one in listed}
        if absent := [one for one in buckets if one not in known]:
            raise NotFound(
                "no-such-bucket",
                f"{self.container.name} has no bucket {', '.join(absent)}.",
                next_command="correct `buckets` of the component in stack.yaml",
            )
        words = [word for one in buckets for word in ("--read-bucket", known[one])]
        self._call(ORG, "auth", "create", *words, "--json", "--description", description, seconds=ANSWER)

    def may(self, token: Secret, bucket: str) -> frozenset[str]:
        """Return what a token may do with a bucket, `read`, `write`, both or neither, as the server answers it.

        It is asked to write a line that is none: without the right to write it says so, and otherwise that it is none.
        """
        given, now = token.reveal().encode(), datetime.now(UTC)
        flux = _count(bucket, now - timedelta(minutes=1), now)
        asked = {"read": ("query", flux, "--raw"), "write": ("write", "--bucket", bucket, "x")}
        able = {}
        for what, words in asked.items():
            argv = ["sh", "-euc", GIVEN_ORG, "sh", *words]
            done = self._exec(f"influx {words[0]}", argv, QUERY, stdin=given)
            able[what] = not any(code in done.stderr.raw for code in ("401", "403", "404"))
            if able[what] and not done.ok and "400" not in done.stderr.raw:
                raise InfluxFailed(
                    "influx-failed",
                    f"influx {words[0]} exited with {done.exit_code}.",
                    looked_at=[f"container {self.container.name}, with a token from the secrets"],
                    evidence=done.stderr.lines()[-3:],
                )
        return frozenset(what for what, holds in able.items() if holds)

    def revoke(self, authorization: Authorization) -> None:
        """Delete a token."""
        self._call(CALL, "auth", "delete", "--id", authorization.id, "--json", seconds=ANSWER)

    def replace_in_configuration(self, old: Secret, new: Secret) -> bool:
        """Replace a token in the configuration of the container's own `influx`; return whether it had it."""
        file = f"{CONFIG}/influx-configs"
        done = self._exec("cat", ["sh", "-euc", '[ ! -e "$1" ] || cat "$1"', "sh", file], ANSWER, exact=True)
        text = done.require(f"reading {file}").stdout.raw
        if f'"{old.reveal()}"' not in text:
            return False
        changed = os.fsencode(text.replace(f'"{old.reveal()}"', f'"{new.reveal()}"'))
        self._exec("mv", ["sh", "-euc", PUT, "sh", file], ANSWER, stdin=changed).require(f"writing {file}")
        return True

    def way_out(self, environment: str) -> list[str]:
        """Return what to type if the token in the file is refused and the valid one is in the configuration."""
        asked = rf"""docker exec {self.container.name} sed -n 's/^ *token = "\(.*\)"$/\1/p' {CONFIG}/influx-configs"""
        return [
            f"{asked} | head -n 1 | invoke secrets.set {self.token_file.rpartition('/')[2].removesuffix('.txt')}",
            f"invoke env.up --env {environment}    # or, with releases: invoke env.deploy --env {environment}",
        ]

    def backup(self, folder: str) -> tuple[str, ...]:
        """Back everything up into a new folder of the container; return its warnings.

        The same data give the same files, by name, time and content, whenever they are backed up.
        """
        done = self._copied(folder)
        self._exec("mv", ["sh", "-euc", RENAME, "sh", folder], ANSWER).require("naming what influx backup has written")
        return tuple(line for line in (*done.stderr.lines(), *done.stdout.lines()) if re.search(r"\bWARN\b", line))

    def _copied(self, folder: str) -> Completed:
        """Copy everything; again after each pause if the server could not read a shard that was being written to."""
        for pause in PAUSES:
            try:
                return self._call(CALL, "backup", folder, seconds=COPY)
            except InfluxFailed as error:
                if not any(NO_SNAPSHOT in line for line in error.evidence):
                    raise
            self._exec("rm", ["sh", "-euc", EMPTY, "sh", folder], ANSWER).require("emptying the folder of the backup")
            time.sleep(pause)
        return self._call(CALL, "backup", folder, seconds=COPY)

    def restore_all(self, folder: str) -> None:
        """Replace everything, including tokens and users, by a backup in a folder of the container."""
        self._call(CALL, "restore", folder, "--full", seconds=COPY)

    def restore_bucket(self, folder: str, bucket: str, new: str) -> None:
        """Restore one bucket under another name; nothing else is touched."""
        self._call(CALL, "restore", folder, "--bucket", bucket, "--new-bucket", new, seconds=COPY)

    def buckets(self) -> tuple[str, ...]:
        """Return the names of the buckets, without InfluxDB's own."""
        listed = json.loads(self._call(ORG, "bucket", "list", "--json", seconds=ANSWER).stdout.raw)
        return tuple(sorted(one["name"] for one in listed if not one["name"].startswith("_")))

    def delete_bucket(self, name: str) -> None:
        """Delete a bucket and its content."""
        self._call(ORG, "bucket", "delete", "--name", name, seconds=ANSWER)

    def counts(self, bucket: str, start: datetime, stop: datetime) -> dict[str, int]:
        """Count the values of each measurement from `start` to `stop`, exclusive; each field of a point counts."""
        return _counted(self._call(ORG, "query", _count(bucket, start, stop), "--raw", seconds=QUERY).stdout.raw)

    def delete(self, bucket: str, start: datetime, stop: datetime) -> None:
        """Delete from `start` to `stop`, exclusive; the server itself treats the end as inclusive."""
        span = ("--start", _flux(start), "--stop", _flux_before(stop))
        self._call(ORG, "delete", "--bucket", bucket, *span, seconds=QUERY)

    def make(self, folder: str, size: int | None = None) -> None:
        """Make a private folder in the container.

        Args:
            size: bytes that will go into it; default: the size of the server's own data.

        Raises:
            Refused: there is not enough room.
        """
        asked = self._exec("du", ["sh", "-euc", ROOM, "sh", folder.rpartition("/")[0], DATA], QUERY)
        free, taken = [1024 * int(words) for words in asked.require("checking free space").stdout.raw.split()]
        wanted = taken if size is None else size
        if free < wanted:
            raise Refused(
                "no-room-in-container",
                f"{human_size(wanted)} must pass through {folder.rpartition('/')[0]} of {self.container.name};"
                f" {human_size(free)} are free there.",
                looked_at=[f"df and du in {self.container.name}"],
                next_command=f"docker exec {self.container.name} df -h /tmp\ndocker system df",
            )
        self._exec("mkdir", ["mkdir", "-m", "700", folder], ANSWER).require("creating a folder in the container")

    def _call(self, script: str, *words: str, seconds: float) -> Completed:
        what = f"influx {' '.join(words[:2] if words[0] in ('bucket', 'auth') else words[:1])}"
        done = self._exec(what, ["sh", "-euc", script, "sh", self.token_file, *words], seconds)
        if self.otherwise and _is_refused(done):
            self.refused.append(what)
            done = self._exec(what, ["sh", "-euc", script, "sh", "", *words], seconds)
        if not done.ok:
            raise InfluxFailed(
                "influx-failed",
                f"{what} exited with {done.exit_code}.",
                looked_at=[f"container {self.container.name}, token in {self.token_file}"],
                evidence=done.stderr.lines()[-6:],  # stdout may have tokens in it
                next_command=_advice(done.stderr, self.container.name),
            )
        return done

    def _exec(
        self, what: str, argv: Sequence[str], seconds: float, *, stdin: bytes | None = None, exact: bool = False
    ) -> Completed:
        try:
            return programs.run(
                self.engine,
                self.container.id,
                argv,
                number=self.number,
                user="0:0",
                stdin=stdin,
                timeout=seconds,
                exact=exact,
            )
        except Unreachable as error:
            if error.code != "tool-timed-out":
                raise
            name = self.container.name
            raise Unreachable(
                "influx-hangs",
                f"{what} in {name} timed out after {seconds:g} s and was stopped.",
                looked_at=[f"container {name}"],
                next_command=f"docker logs --tail 50 {name}\ndocker restart {name}"
                "    # frees a server that hangs; then try again",
            ) from error


def _is_refused(done: Completed) -> bool:
    return not done.ok and any(word in done.stderr.raw for word in ("401", "unauthorized"))


def _advice(said: Captured, container: str) -> str:
    words = said.raw
    if "401" in words or "unauthorized" in words:
        return "give it the operator token: an all-access token cannot back up or restore"
    if "no space left" in words:
        return f"docker exec {container} df -h /tmp    # backups and restores pass through there"
    return f"docker logs --tail 50 {container}"


def _count(bucket: str, start: datetime, stop: datetime) -> str:
    return (
        f'from(bucket: "{bucket}") |> range(start: {_flux(start)}, stop: {_flux(stop)})'
        ' |> group(columns: ["_measurement"]) |> count()'
    )


def _flux(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def _flux_before(moment: datetime) -> str:
    """Format the last nanosecond before a moment of whole seconds."""
    return f"{moment.astimezone(UTC) - timedelta(seconds=1):%Y-%m-%dT%H:%M:%S}.999999999Z"


def _counted(annotated: str) -> dict[str, int]:
    """Sum the counts in annotated CSV: comment lines, then tables, each with a header of its own."""
    counts: dict[str, int] = {}
    head: Mapping[str, int] = {}
    for row in csv.reader(line for line in annotated.splitlines() if line and not line.startswith("#")):
        if "_value" in row and "_measurement" in row:
            head = {name: place for place, name in enumerate(row)}
        elif head:
            name = row[head["_measurement"]]
            counts[name] = counts.get(name, 0) + int(row[head["_value"]])
    return counts
