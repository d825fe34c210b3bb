"""docs/how-to/disaster-recovery.md on real servers: a host is lost, but for one backup and the recovery key.

What is lost: Forgejo with a repository and its runners, the registry, production with its InfluxDB, and development;
each environment a node of a tailnet as well, where the images for that are here. tests/e2e/test_whole_host.py follows
the same document on stand-ins.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.documents import lines
from tests.real import forgejo, influxdb, tailnet
from tests.real.road import ROOT, NotHere, Road, Walk, in_use, say
from tests.tailnets import Tailnet, docker

__all__ = ["ROAD"]

DOCUMENT = (ROOT / "docs/how-to/disaster-recovery.md").read_text(encoding="utf-8").partition("## From off-site")[0]

OTHERWISE = {
    # It would be the schedule of whoever walks here.
    "invoke backup.cron install": "invoke backup.cron install --dry-run",
}
"""What is typed in the place of a line of the document."""

OWN_SETTINGS = "cp .env.example .env && chmod 600 .env"
"""The line after which a reader fills in what their own .env said."""

OF_TAILNET = "--component tailscale-"

AFTERWARDS = "git push && invoke ci.watch"
"""The line that changes what was recovered."""

NAME, STORAGE = "chocolate-factory", "chocolate_factory_storage"

WEEKS = 4
"""Weeks of values that InfluxDB has, which are as many shards."""

VALUES = """\
from(bucket: "energy_data") |> range(start: 2000-01-01T00:00:00Z, stop: 2100-01-01T00:00:00Z)
 |> filter(fn: (r) => r._measurement == "prices" or r._measurement == "weather") |> %s()"""


@dataclass(frozen=True)
class Left:
    """What is left of the host, and what we know of it.

    Attributes:
        backup: its folder; the recovery key is beside it.
        repository: OWNER/NAME on the server.
        settings: what `.env` said, empty if there was none.
    """

    backup: Path
    repository: str
    settings: str
    seen: Seen


@dataclass(frozen=True)
class Seen:
    """What there is before the loss, and has to be there again.

    Attributes:
        images: tag and digest of what the registry has.
        values: how many InfluxDB has and their sums, as it writes them.
        runs: of the pipeline, each with its state.
        runners: the numbers of their registrations.
        nodes: the number of each node on the tailnet, by its name.
    """

    images: set[tuple[str, str]]
    values: str
    models: str
    branches: str
    runs: list[tuple[int, str]]
    runners: list[int]
    nodes: dict[str, int]


def images() -> list[str]:
    """What the roads to Forgejo and to InfluxDB need, and the edge."""
    production = yaml.safe_load((ROOT / "compose/prod.yaml").read_text(encoding="utf-8"))["services"]
    return [*forgejo.images(), *influxdb.images(), production["edge"]["image"]]


def road(walk: Walk) -> None:
    """Every step; what was brought up is removed, whatever happened."""
    if found := in_use(tailnet.PORTS) + [f"folder {forgejo.WORK}"] * forgejo.WORK.exists():
        raise NotHere(f"the names of the documentation are in use here: {', '.join(found)}")
    with walk.part("the tailnet", [tailnet.sidecar(), tailnet.HEADSCALE]) as can:
        server = tailnet.control_server(walk) if can else None
    failed = True
    try:
        left = Lost(walk, server).backed_up()
        with walk.step("everything is lost"):
            lose()
            shutil.rmtree(walk.folder)
        Recovered(walk, server, left).followed()
        failed = False
    finally:
        if failed and walk.keep:
            say(f"real: kept for looking at it: {walk.folder.parent}, {forgejo.WORK}, the three environments")
        else:
            lose()
            if server:
                server.remove()


def lose() -> None:
    """Everything of the three environments that is on the engine, and the folder of the runners."""
    ours = re.compile(rf"{NAME}|{NAME.replace('-', '_')}")
    for listed, removed in (
        (("ps", "--all", "--format", "{{.Names}}"), ("rm", "--force", "--volumes")),
        (("volume", "ls", "--format", "{{.Name}}"), ("volume", "rm")),
        (("network", "ls", "--format", "{{.Name}}"), ("network", "rm")),
        (("images", "--format", "{{.Repository}}:{{.Tag}}"), ("rmi", "--force")),
    ):
        found = [one for one in docker(*listed).split() if ours.match(one.removeprefix("localhost:5000/"))]
        if named := [one for one in found if not one.endswith(":<none>")]:
            docker(*removed, *named)
    shutil.rmtree(forgejo.WORK, ignore_errors=True)


class Lost:
    """The host before its loss."""

    def __init__(self, walk: Walk, server: Tailnet | None) -> None:
        self.walk, self.server = walk, server
        os.environ["XDG_STATE_HOME"] = str(walk.folder.parent / "state-lost")

    def backed_up(self) -> Left:
        """Bring everything up as the documentation says, and back it up."""
        walk, usb = self.walk, self.walk.folder.parent / "usb"
        usb.mkdir()
        for name, value in forgejo.SOMEBODY.items():
            walk.run("git", "config", name, value)
        with walk.step("scripts/quickstart"):
            walk.run("scripts/quickstart")
        if self.server:
            self._join(self.server)
        walk.timed("env.up", "--env", "git")
        done = json.loads(walk.timed("ci.setup", "--json"))["value"]
        said = walk.invoke("backup.recovery-key", str(usb / "recovery.key"))
        self._replace("stack.yaml", "recipients: []", f"recipients: [{re.findall('age1[a-z0-9]+', said)[0]}]")
        # What a push sets going is walked on the road to Forgejo.
        walk.run("git", "commit", "--quiet", "--all", "--message", "Back up for a recovery key [skip ci]")
        walk.run("git", "push", "--quiet", done["remote"], done["branch"])
        walk.timed("images.release", "--env", "prod")
        walk.timed("env.deploy", "--env", "prod")
        walk.timed("env.up", "--env", "dev")
        with walk.step("data of production"):
            begun = datetime.now(UTC).replace(microsecond=0) - WEEKS * influxdb.WEEK
            for week in range(WEEKS):
                written = influxdb.lines(begun + week * influxdb.WEEK)
                influxdb.asked(STORAGE, "write --precision s -b energy_data", written)
            in_volume("models_prod", "echo trained > /there/prophet.pkl && chown 1000:1000 /there/prophet.pkl")
        walk.timed("backup.create", "daily")
        [backup] = (walk.folder.parent / f"{NAME}-backups/daily").iterdir()
        there = forgejo.Pushed(walk, done["server"], done["repository"], done["remote"], done["branch"])
        env = walk.folder / ".env"
        settings = env.read_text(encoding="utf-8") if env.exists() else ""
        left = Left(usb / backup.name, there.repository, settings, look(there, self.server))
        shutil.move(backup, left.backup)
        shutil.rmtree(backup.parents[1])
        return left

    def _join(self, server: Tailnet) -> None:
        server.begin()
        joining = tailnet.Joining(self.walk, server, os.environ.pop("CA_BUNDLE", ""))
        joining.prepare()
        for environment in tailnet.KEYS:
            joining.set_key(environment, server.key("--tags", "tag:server"))
        self.walk.run("git", "commit", "--quiet", "--all", "--message", "On the tailnet")

    def _replace(self, name: str, old: str, new: str) -> None:
        file = self.walk.folder / name
        file.write_text(file.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")


class Recovered:
    """An empty host, on which a reader follows the document line by line."""

    def __init__(self, walk: Walk, server: Tailnet | None, left: Left) -> None:
        home = walk.folder.parent / "home"
        home.mkdir()
        self.walk, self.server, self.left = Walk(home, walk.keep, walk.taken, walk.left_out), server, left
        self.renamed = {
            "/media/usb": str(left.backup.parent), "chocolate-factory_daily_20251022_020000": left.backup.name,
            "/you/": f"/{left.repository.partition('/')[0]}/",
        }  # fmt: skip
        somebody = {"NAME": forgejo.SOMEBODY["user.name"], "EMAIL": forgejo.SOMEBODY["user.email"]}
        os.environ |= {f"GIT_{who}_{what}": v for who in ("AUTHOR", "COMMITTER") for what, v in somebody.items()}
        os.environ["XDG_STATE_HOME"] = str(home.parent / "state")

    def followed(self) -> None:
        """Every line; before the last one all is there that was there before."""
        typed = [line for line in lines(DOCUMENT) if self.server or OF_TAILNET not in line]
        influxdb.require("the document ends with a push", typed[-1] == AFTERWARDS)
        for line in typed[:-1]:
            self._type(line)
        self._as_before()
        self._type(AFTERWARDS)
        for environment in ("git", "prod", "dev"):
            self.walk.timed("env.status", "--env", environment)

    def _as_before(self) -> None:
        walk = self.walk
        there = forgejo.Pushed(walk, "http://localhost:3000", self.left.repository, "origin", "develop")
        after = vars(look(there, self.server))
        for name, value in vars(self.left.seen).items():
            now = after[name]
            influxdb.require(f"{name} are as before: {value} and {now}", _holds(name, value, now))
        for address in (forgejo.DEV, forgejo.PROD):
            influxdb.require(
                f"{address} serves", httpx.get(f"{address}/health", timeout=30).json()["status"] == "healthy"
            )

    def _type(self, line: str) -> None:
        typed = re.sub(
            "|".join(map(re.escape, self.renamed)), lambda found: self.renamed[found[0]], OTHERWISE.get(line, line)
        )
        if typed.startswith("cd "):
            self.walk.folder = self.walk.folder / typed.removeprefix("cd ")
            return
        python = self.walk.folder / ".venv/bin"
        path = os.pathsep.join([*([str(python)] if python.exists() else []), os.environ["PATH"]])
        # Nothing is rendered yet when the document has that asked.
        fails = None if line == "invoke secrets.check" else False
        with self.walk.step(line):
            self.walk.run("bash", "-euo", "pipefail", "-c", typed, fails=fails, variables={"PATH": path})
        if line == OWN_SETTINGS and self.left.settings:
            (self.walk.folder / ".env").write_text(self.left.settings, encoding="utf-8")


def look(there: forgejo.Pushed, server: Tailnet | None) -> Seen:
    """What there is now."""
    listed = json.loads(there.walk.invoke("images.list", "--json"))["value"]
    runs = there.ask("GET", "/actions/runs")["workflow_runs"]
    return Seen(
        images={(one["tag"], one["digest"]) for one in listed if one["digest"]},
        values="\n".join(influxdb.asked(STORAGE, f"query --raw '{VALUES % how}'") for how in ("count", "sum")),
        models=in_volume("models_prod", "cat /there/prophet.pkl && stat -c %u:%g /there/prophet.pkl"),
        branches=there.walk.run("git", "ls-remote", "--heads", there.remote),
        runs=sorted((int(one["index_in_repo"]), str(one["status"])) for one in runs),
        runners=sorted(int(one["id"]) for one in there.ask("GET", "/actions/runners")),
        nodes={name: int(one["id"]) for name, one in server.nodes().items()} if server else {},
    )


def _holds(name: str, before: Any, now: Any) -> bool:
    """Whether nothing is missing: `ci.setup` has runners take jobs, which are runs too."""
    return {*before} <= {*now} if name == "runs" else bool(before == now)


def in_volume(volume: str, script: str) -> str:
    """What a script says that has this volume of the stack at /there."""
    mounted = ("--volume", f"{NAME}_{volume}:/there", "python:3.11-slim-bookworm", "sh", "-euc", script)
    return docker("run", "--rm", *mounted)


ROAD = Road("recovery", images, road)
