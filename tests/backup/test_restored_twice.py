"""Data of every kind, corrupted and restored under an application that writes, and compared byte by byte."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from conche.backup.exchange import Aside
from conche.engine import images
from conche.engine.connection import Engine
from conche.engine.images import Build
from conche.testing import postgres
from tests.backup.checkouts import tree
from tests.stacks import SmallStack, free_port
from tests.standing import standing

pytestmark = pytest.mark.engine

FOLDERS = ("bound", "named", "unpacked")

APPLICATION = """\
import pathlib, sqlite3, time, uuid
me, rests = uuid.uuid4().hex, pathlib.Path("/control/rests")
database = sqlite3.connect("/database/app.db", timeout=60, isolation_level=None)
while True:
    for folder in () if rests.exists() else ("/bound", "/named", "/unpacked"):
        with open(folder + "/written", "a") as file:
            print(me, file=file)
    try:
        database.execute("INSERT INTO written VALUES (?)", [me])
    except sqlite3.OperationalError:
        pass
    time.sleep(0.05)
"""

COMPOSE = """\
services:
  db: &common
    image: {image}
    container_name: {name}-db
    user: "{user}"
    init: true
    stop_grace_period: 1s
    healthcheck: {{test: [CMD, psql, -c, SELECT 1, app], interval: 1m}}
    volumes: ["database:/var/lib/postgresql/data"]
  app:
    <<: *common
    container_name: {name}-app
    command: [python3, -ISu, /control/app.py]
    healthcheck: {{test: [CMD, grep, -q, app.py, /proc/1/cmdline], interval: 1m}}
    volumes:
      - ../control:/control
      - ../bound:/bound
      - named:/named
      - unpacked:/unpacked
      - database:/database
volumes:
  named: {{name: {name}-named}}
  unpacked: {{name: {name}-unpacked}}
  database: {{name: {name}-database}}
"""

BACKUP = """\
backup:
  components:
    bound: {{driver: archive, paths: [bound]}}
    named: {{driver: volume, volume: {name}-named, environment: dev}}
    unpacked: {{driver: volume, volume: {name}-unpacked, environment: dev, unpacked: true}}
    db:
      driver: command
      environment: dev
      service: db
      services: [app]
      dump: [pg_dump, --clean, --if-exists, -U, app, app]
      restore: [psql, -q, -v, ON_ERROR_STOP=1, --single-transaction, -U, app, app]
      check: [psql, -A, -t, -c, "SELECT count(*), group_concat(x) FROM good; SELECT count(*) FROM written", app]
"""
STRICT = "restore: [psql, -q, -v, ON_ERROR_STOP=1, --single-transaction, -U, app, app]"
LOADS = "psql -q -v ON_ERROR_STOP=1 --single-transaction app"

LOOK = """\
import hashlib, json, os, stat, sys
found = {}
for folder, names, files in os.walk("."):
    names[:] = [name for name in names if not name.startswith(".pre-restore-")]
    for name in names + [name for name in files if not name.startswith(".pre-restore-")]:
        path, seen = os.path.join(folder, name), os.lstat(os.path.join(folder, name))
        kind = stat.S_IFMT(seen.st_mode)
        if kind == stat.S_IFREG:
            with open(path, "rb") as stream:
                said = hashlib.sha256(stream.read()).hexdigest()
        else:
            said = os.readlink(path) if kind == stat.S_IFLNK else "folder"
        found[path] = [oct(seen.st_mode), seen.st_uid, seen.st_gid, said]
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Shop:
    """A stack whose application writes into a bound folder, two volumes and a database, all the time."""

    stack: SmallStack
    engine: Engine

    @classmethod
    def create(cls, stack: SmallStack, engine: Engine) -> Shop:
        image, user = f"localhost:5000/{stack.name}:postgres", f"{os.getuid()}:{os.getgid()}"
        images.build(engine, Build(image, postgres.DOCKERFILE, postgres.CONTEXT))
        made = cls(stack, engine)
        stack.write("control/app.py", APPLICATION)
        stack.write("bound/keep", "keep")
        stack.write("compose/dev.yaml", COMPOSE.format(image=image, name=stack.name, user=user))
        stack.write("stack.yaml", (stack.folder / "stack.yaml").read_text() + BACKUP.format(name=stack.name))
        made.rest(begin=True)
        stack.up()
        made.inside("app", "chmod 777 /named /unpacked /database", root=True)
        made.sql("CREATE TABLE good (x TEXT); CREATE TABLE written (x TEXT); INSERT INTO good VALUES ('good');")
        for folder in FOLDERS:
            made.inside(
                "app",
                f"cd /{folder}; mkdir -p deep/er; echo one > deep/er/one; ln -s er/one deep/link;"
                "head -c 300000 /dev/urandom > large; chmod 640 large; echo begun > written",
            )
        return made

    @property
    def own(self) -> Path:
        return self.stack.folder / ".backup"

    def inside(self, service: str, *words: str, root: bool = False) -> str:
        argv = ["docker", "exec", *(["--user", "0"] if root else []), f"{self.stack.name}-{service}", "sh", "-euc"]
        return subprocess.run([*argv, *words], capture_output=True, text=True, check=True).stdout

    def sql(self, script: str) -> str:
        argv = ["docker", "exec", "-i", f"{self.stack.name}-db", "psql", "-A", "-t", "-v", "ON_ERROR_STOP=1", "app"]
        return subprocess.run(argv, input=script, capture_output=True, text=True, check=True).stdout

    def rest(self, *, begin: bool) -> None:
        """Let the application leave its files alone, or write into them again."""
        flag = self.stack.folder / "control/rests"
        if begin:
            self.stack.write("control/rests", "")
        else:
            flag.unlink(missing_ok=True)

    def passes(self) -> None:
        """Until the application has been everywhere once more, and has seen how it is to behave."""
        before = self.written()
        while self.written() < before + 2:
            pass

    def written(self) -> int:
        return int(self.sql("SELECT count(*) FROM written;"))

    def files(self) -> dict[str, Any]:
        """What is in the three folders, by folder and name; but what the application writes there."""
        found = {name: json.loads(self.inside("app", f'cd /{name}; python3 -ISc "$1"', "sh", LOOK)) for name in FOLDERS}
        return {folder: {name: one for name, one in found[folder].items() if name != "./written"} for folder in FOLDERS}

    def logs(self) -> dict[str, list[str]]:
        """What the application has written into the three folders, by line."""
        return {folder: self.inside("app", f"cat /{folder}/written").splitlines() for folder in FOLDERS}

    def spoil(self) -> None:
        """Corrupt everything, while the application writes."""
        for folder in FOLDERS:
            self.inside(
                "app", f"cd /{folder}; head -c 9 /dev/zero > large; rm -r deep; mkdir other; echo two > other/two"
            )
        self.sql("UPDATE good SET x = 'bad'; INSERT INTO good VALUES ('later');")

    def invoke(self, *words: str) -> tuple[int, Any, str]:
        done = self.stack.invoke(*words, "--json")
        return done.returncode, json.loads(done.stdout), done.stderr

    def backup(self) -> str:
        code, made, said = self.invoke("backup.create")
        assert code == 0, said
        return str(made["value"]["name"])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, engine: Engine, base_image: str) -> Iterator[Shop]:
    stack = SmallStack.create(tmp_path_factory.mktemp("shop") / "checkout", free_port())
    try:
        yield Shop.create(stack, engine)
    finally:
        stack.remove_all(engine)


@pytest.fixture
def shop(made: Shop) -> Iterator[Shop]:
    """The same for every test, which may change its stack.yaml."""
    before = (made.stack.folder / "stack.yaml").read_text()
    yield made
    made.stack.write("stack.yaml", before)


def test_every_kind_comes_back_twice_and_the_application_writes_into_what_came_back(shop: Shop) -> None:
    shop.passes()
    files, logs = shop.files(), shop.logs()
    name = shop.backup()
    for _ in range(2):
        shop.rest(begin=False)
        shop.passes()
        shop.spoil()

        code, done, said = shop.invoke("backup.restore", name, "--force")

        shop.passes()
        shop.rest(begin=True)
        shop.passes()
        aside = tree(shop.own)
        assert code == 0, said
        assert [(one["component"], one["proven"]) for one in done["value"]["proofs"]] == [("db", True)]
        assert f"stopping {shop.stack.name}-app" in said
        assert shop.files() == files
        assert shop.sql("SELECT x FROM good;") == "good\n"
        # What was in the backup, and then what one process wrote: the one that was started afterwards.
        after = {folder: lines[len(logs[folder]) :] for folder, lines in shop.logs().items()}
        assert {folder: lines[: len(logs[folder])] for folder, lines in shop.logs().items()} == logs
        assert len({line for lines in after.values() for line in lines}) == 1
        assert all(after.values())
        # And into nothing that was put aside.
        shop.rest(begin=False)
        shop.passes()
        assert tree(shop.own) == aside
        shop.rest(begin=True)
        shop.passes()
    shop.backup()
    assert shop.files() == files
    assert list(shop.own.glob("pre-restore-*")) == []


def test_what_a_restore_put_aside_comes_back_under_a_writing_application(shop: Shop) -> None:
    shop.passes()
    files, name = shop.files(), shop.backup()
    shop.spoil()
    spoilt = shop.files()
    shop.rest(begin=False)
    shop.passes()
    assert shop.invoke("backup.restore", name, "--force")[0] == 0
    assert shop.files() == files

    for wanted, rows in ((spoilt, "bad\nlater\n"), (files, "good\n")):
        shop.passes()

        code, done, said = shop.invoke("backup.undo", "--force")

        assert code == 0, said
        assert [(one["component"], one["proven"]) for one in done["value"]["proofs"]] == [("db", True)]
        assert (shop.files(), shop.sql("SELECT x FROM good;")) == (wanted, rows)
        # What is put aside is written into by nobody.
        aside = tree(shop.own)
        shop.passes()
        assert tree(shop.own) == aside
    shop.rest(begin=True)
    shop.passes()
    shop.backup()
    assert list(shop.own.glob("*restore*")) == []


KILLED = {
    "before what writes stops": ("http.client.send", "/stop", False),
    "before a volume": ("subprocess.Popen", 'mv ".pre-restore-$2"', False),
    "before the database": ("subprocess.Popen", "--single-transaction", False),
    "while what is put aside is put together": ("os.rename", "pre-restore-", True),
}


@pytest.mark.parametrize(
    "point", [name if name == "before a volume" else pytest.param(name, marks=pytest.mark.long) for name in KILLED]
)
def test_an_undo_that_is_killed_is_taken_back_or_finished_and_can_be_repeated(shop: Shop, point: str) -> None:
    event, at, done = KILLED[point]
    files, name = shop.files(), shop.backup()
    shop.spoil()
    states = {False: (files, "good\n"), True: (shop.files(), "bad\nlater\n")}
    assert shop.invoke("backup.restore", name, "--force")[0] == 0

    with standing(shop.stack, "backup.undo", "--force", event=event, at=at) as one:
        one.kill()
    code, _, said = shop.invoke("backup.verify", name)
    found = shop.files(), shop.sql("SELECT x FROM good;")
    again, _, heard = shop.invoke("backup.undo", "--force")
    then = shop.files(), shop.sql("SELECT x FROM good;")

    assert (code, again) == (0, 0), said + heard
    assert found == states[done]
    assert then == states[not done]
    if not done:
        assert shop.invoke("backup.undo", "--force")[0] == 0
    shop.backup()
    assert list(shop.own.glob("*restore*")) == []


def test_old_data_stay_for_as_long_as_a_container_has_run_since_before_the_restore(shop: Shop) -> None:
    number = f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}"
    old = shop.own / f"pre-restore-{number}/bound/bound"
    old.mkdir(parents=True)
    (old / "written").write_text("by a container that an earlier version left running")
    Aside.write(shop.own, {Aside(number, None, "", str(shop.stack.folder / "bound"))})

    _, _, kept = shop.invoke("backup.create")
    stayed = (old / "written").exists()
    subprocess.run(["docker", "restart", f"{shop.stack.name}-app"], check=True, capture_output=True)
    shop.backup()

    assert stayed
    assert f"{shop.stack.name}-app may still write there; run: docker restart {shop.stack.name}-app" in kept
    assert not old.exists()


def test_a_plain_dump_is_degraded_and_refused_with_the_options_that_can_replace(shop: Shop) -> None:
    shop.stack.replace("stack.yaml", "--clean, --if-exists, ", "")
    code, made, said = shop.invoke("backup.create")
    name = made["value"]["name"]
    shop.sql("UPDATE good SET x = 'bad'")

    refused, document, _ = shop.invoke("backup.restore", name, "--component", "db", "--force")
    drilled, result, _ = shop.invoke("backup.drill", name)
    shop.stack.replace("stack.yaml", "[pg_dump, ", "[pg_dump, --clean, --if-exists, ")
    old, by_content, _ = shop.invoke("backup.restore", name, "--component", "db", "--force", "--degraded")

    assert code == 3, said
    assert [one for one in made["value"]["missing"] if "add --clean --if-exists" in one]
    assert (refused, document["error"]["code"]) == (2, "dump-cannot-replace")
    assert "add --clean --if-exists" in document["error"]["evidence"][0]
    assert (drilled, result["value"]["well"]) == (1, False)
    assert (old, by_content["error"]["code"]) == (2, "dump-cannot-replace")
    assert "begins with CREATE TABLE and drops nothing" in by_content["error"]["evidence"][0]
    assert shop.sql("SELECT x FROM good;") == "bad\n"
    shop.sql("UPDATE good SET x = 'good'")


def test_without_a_check_a_restore_and_a_drill_are_not_proven(shop: Shop) -> None:
    text = (shop.stack.folder / "stack.yaml").read_text()
    shop.stack.write("stack.yaml", text[: text.index("      check:")])
    name = shop.backup()

    code, done, said = shop.invoke("backup.restore", name, "--component", "db", "--force")
    drilled, result, _ = shop.invoke("backup.drill", name)

    assert (code, done["value"]["proofs"][0]["proven"]) == (3, False), said
    assert (drilled, result["value"]["well"], result["value"]["proven"]) == (3, True, False)


def test_a_restore_that_brings_back_something_else_is_taken_back(shop: Shop) -> None:
    script = f"{LOADS}; [ ! -e /tmp/once ] || {{ rm /tmp/once; psql -c 'DELETE FROM good' app; }}"
    shop.stack.replace("stack.yaml", STRICT, f'restore: [sh, -c, "{script}"]')
    name = shop.backup()
    shop.sql("UPDATE good SET x = 'now'")
    shop.inside("db", "touch /tmp/once")

    code, document, said = shop.invoke("backup.restore", name, "--component", "db", "--force")

    assert (code, document["error"]["code"]) == (4, "restore-taken-back"), said
    assert "answers differently than in the backup" in document["error"]["message"]
    assert shop.sql("SELECT x FROM good;") == "now\n"
    shop.sql("UPDATE good SET x = 'good'")


@pytest.mark.parametrize("check", [True, pytest.param(False, marks=pytest.mark.long)])
def test_one_that_cannot_be_taken_back_is_settled_by_name_and_stops_nothing_else(shop: Shop, check: bool) -> None:
    shop.stack.replace("stack.yaml", STRICT, f'restore: [sh, -c, "[ ! -e /tmp/broken ] || exit 9; {LOADS}"]')
    if not check:
        text = (shop.stack.folder / "stack.yaml").read_text()
        shop.stack.write("stack.yaml", text[: text.index("      check:")])
    name = shop.backup()
    shop.sql("UPDATE good SET x = 'now'")
    shop.inside("db", "touch /tmp/broken")

    code, document, said = shop.invoke("backup.restore", name, "--component", "db", "--force")

    if check:  # nothing was loaded either way, and that can be seen
        assert (code, document["error"]["code"]) == (4, "restore-taken-back"), said
    else:
        assert (code, document["error"]["code"]) == (5, "restore-not-taken-back"), said
        assert "invoke backup.settle" in document["error"]["next"]
        verified, _, heard = shop.invoke("backup.verify", name)
        assert (verified, "run: invoke backup.settle" in heard) == (0, True)
        created, made, _ = shop.invoke("backup.create")
        parts = json.loads((Path(made["value"]["folder"]) / "manifest.json").read_text())["components"]
        assert created == 3
        assert [bool(parts[one]["artifacts"]) for one in (*FOLDERS, "db")] == [True] * 4
        assert [one for one in made["value"]["missing"] if not one.startswith("db: ")] == []
        refused, again, _ = shop.invoke("backup.restore", name, "--component", "named", "--force")
        assert (refused, again["error"]["code"]) == (2, "restore-unsettled")
        tried, still, _ = shop.invoke("backup.settle")
        assert (tried, still["error"]["code"]) == (5, "restore-not-taken-back")
    shop.inside("db", "rm /tmp/broken")
    settled, _, heard = shop.invoke("backup.settle")
    assert settled == 0, heard
    assert shop.sql("SELECT x FROM good;") == "now\n"
    assert list(shop.own.glob("restore-*")) == []
    shop.sql("UPDATE good SET x = 'good'")
    shop.backup()


def test_one_that_is_left_as_it_is_keeps_what_was_there_before(shop: Shop) -> None:
    shop.stack.replace("stack.yaml", STRICT, f'restore: [sh, -c, "[ ! -e /tmp/broken ] || exit 9; {LOADS}"]')
    text = (shop.stack.folder / "stack.yaml").read_text()
    shop.stack.write("stack.yaml", text[: text.index("      check:")])
    name = shop.backup()
    shop.inside("db", "touch /tmp/broken")
    failed, _, _ = shop.invoke("backup.restore", name, "--component", "db", "--force")

    planned, document, _ = shop.invoke("backup.settle", "--as-it-is", "--dry-run")
    left, answer, said = shop.invoke("backup.settle", "--as-it-is")
    shop.inside("db", "rm /tmp/broken")
    shop.backup()

    [kept] = answer["value"]["kept"]
    assert (failed, planned, left) == (5, 0, 0), said
    assert [one["subject"] for one in document["plan"]] == ["component db"]
    assert (Path(kept) / "db/before.gz").stat().st_size > 0


def test_what_the_programs_warn_of_is_shown_and_kept(shop: Shop) -> None:
    dump = "pg_dump --clean --if-exists -U app app"
    shop.stack.replace(
        "stack.yaml",
        "dump: [pg_dump, --clean, --if-exists, -U, app, app]",
        f'dump: [sh, -c, "echo circular >&2; exec {dump}"]',
    )
    shop.stack.replace("stack.yaml", STRICT, f'restore: [sh, -c, "echo careful >&2; exec {LOADS}"]')

    code, made, said = shop.invoke("backup.create")
    restored, done, heard = shop.invoke("backup.restore", made["value"]["name"], "--component", "db", "--force")

    assert (code, restored) == (0, 0), said + heard
    assert made["warnings"] == ["db: its dump's program says: circular"]
    assert [one for one in done["warnings"] if one.startswith("db: its")] == ["db: its restore's program says: careful"]
    assert "  warning: circular\n" in (Path(made["value"]["folder"]) / "MANIFEST.txt").read_text()


@pytest.mark.parametrize("way", ["exit 1", "pg_dump --clean --if-exists -U app app | head -c 600; exit 0"])
def test_nothing_is_loaded_before_the_way_back_is_one_unless_that_is_accepted(shop: Shop, way: str) -> None:
    dump = f"[ ! -e /tmp/no-dump ] || {{ {way}; }}; exec pg_dump --clean --if-exists -U app app"
    shop.stack.replace("stack.yaml", "dump: [pg_dump, --clean, --if-exists, -U, app, app]", f'dump: [sh, -c, "{dump}"]')
    name = shop.backup()
    shop.sql("UPDATE good SET x = 'now'")
    shop.inside("db", "touch /tmp/no-dump")
    words = ("backup.restore", name, "--component", "db", "--force")

    refused, document, said = shop.invoke(*words)
    untouched = shop.sql("SELECT x FROM good;")
    accepted, done, heard = shop.invoke(*words, "--no-way-back")
    undone, nothing, _ = shop.invoke("backup.undo", "--force")
    shop.inside("db", "rm /tmp/no-dump")

    assert (refused, untouched) == (4, "now\n"), said
    assert "--component db --no-way-back" in document["error"]["next"]
    assert (accepted, done["value"]["proofs"][0]["proven"]) == (0, True), heard
    assert "the restore of db cannot be undone" in heard
    assert shop.sql("SELECT x FROM good;") == "good\n"
    assert (undone, nothing["error"]["code"]) == (2, "nothing-put-aside")
    shop.backup()
