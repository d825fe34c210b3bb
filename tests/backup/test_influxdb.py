"""The influxdb component: online, cold, what its own exit code hides, restore and way back."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import tarfile
from datetime import UTC, datetime

import pytest

from conche.backup.drivers.influxdb import Watch
from conche.backup.entries import Reading, tar_entries
from conche.backup.influx import BEGINNING
from conche.engine import containers
from conche.engine.connection import Engine
from tests.backup.databases import REAL, Database
from tests.stacks import SmallStack

NOW = datetime(2030, 1, 1, tzinfo=UTC)
FIRST, SECOND = "prices eur=1 1700000000\n", "prices eur=2 1700000100\n"


@pytest.fixture
def database(small: SmallStack, engine: Engine) -> Database:
    made = Database.create(small, engine)
    made.write(FIRST)
    return made


def counts(database: Database) -> dict[str, int]:
    return database.influx.counts("energy", BEGINNING, NOW)


@pytest.mark.engine
def test_online_it_is_backed_up_and_comes_back(database: Database, engine: Engine) -> None:
    folder = database.backup()
    database.write(SECOND)
    changed = counts(database)

    done = database.stack.invoke("backup.restore", folder.name, "--force")

    record = json.loads((folder / "manifest.json").read_text())["components"]["influxdb"]
    assert (changed, done.returncode) == ({"prices": 2}, 0), done.stderr
    assert record["consistency"].startswith("consistent in itself (influx backup)")
    assert [one["path"] for one in record["artifacts"]] == [
        "influxdb/influxdb_data.tar.gz",
        "influxdb/influxdb_config.tar.gz",
    ]
    listed = subprocess.run(
        ["tar", "tzf", folder / "influxdb/influxdb_data.tar.gz"], capture_output=True, text=True, check=True
    )
    assert [name for name in listed.stdout.split() if name.endswith(".bolt.gz")]
    assert counts(database) == {"prices": 1}
    assert database.sh("ls -d /tmp/conche-* || true") == ""
    said = (folder / "manifest.json").read_text() + done.stdout + done.stderr
    assert database.token not in said


@pytest.mark.engine
def test_cold_its_files_are_taken_and_come_back(database: Database, engine: Engine) -> None:
    containers.stop(engine, database.influx.container.id)
    folder = database.backup()
    containers.start(engine, database.influx.container.id)
    database.wait()
    database.write(SECOND)

    done = database.stack.invoke("backup.restore", folder.name, "--force")

    record = json.loads((folder / "manifest.json").read_text())["components"]["influxdb"]
    assert record["consistency"] == "cold: the database was stopped"
    assert done.returncode == 0, done.stderr
    assert counts(database) == {"prices": 1}


@pytest.mark.engine
@pytest.mark.skipif(bool(REAL), reason="a shard cannot be taken from a real server behind its back")
def test_a_shard_that_is_gone_degrades_the_backup(database: Database) -> None:
    database.sh("rm -r /var/lib/influxdb2/engine/data/1")

    done = database.stack.invoke("backup.create", "--json")

    value = json.loads(done.stdout)["value"]
    assert done.returncode == 3
    assert any("WARN: Shard 1 removed during backup" in words for words in value["missing"])
    assert any("has no data of the bucket energy" in words for words in value["missing"])


@pytest.mark.engine
def test_paused_it_is_neither_backed_up_nor_touched(database: Database, engine: Engine) -> None:
    containers.pause(engine, database.influx.container.id)
    try:
        done = database.stack.invoke("backup.create")
        state = [one.state for one in database.stack.containers(engine)]
    finally:
        containers.unpause(engine, database.influx.container.id)

    assert done.returncode == 4
    assert "is paused" in done.stderr
    assert state == ["paused"]


@pytest.mark.engine
def test_old_data_are_counted_first_and_deleted_on_demand(database: Database) -> None:
    young = int(datetime.now(UTC).timestamp()) - 86_400
    database.write(f"prices eur=3 {young}\n")

    words = ("env.influx.prune", "--older-than", "90d", "--env", "dev")
    planned = database.stack.invoke(*words, "--dry-run", "--json")
    refused = database.stack.invoke(*words)
    done = database.stack.invoke(*words, "--yes", "--json")

    value = json.loads(planned.stdout)["value"]
    assert value["buckets"]["energy"] == {"prices": {"older": 1, "all": 2}}
    assert refused.returncode == 2
    assert done.returncode == 0, done.stderr
    assert counts(database) == {"prices": 1}


def packed(files: dict[str, bytes]) -> tarfile.TarFile:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(f"dump/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return tarfile.open(fileobj=io.BytesIO(stream.getvalue()), mode="r|")


def watched(files: dict[str, bytes], buckets: tuple[str, ...] = ("energy",)) -> list[str]:
    watch = Watch()
    for entry in watch.over(tar_entries(packed(files), "dump", Reading())):
        assert entry.read is not None
        _, blocks = entry.read()
        list(blocks)
    return watch.problems(buckets)


def influx_backup() -> dict[str, bytes]:
    files = {name: gzip.compress(name.encode() * 50) for name in ("T.bolt.gz", "T.sqlite.gz", "T.1.tar.gz")}

    def entry(name: str) -> dict[str, object]:
        return {"fileName": name, "size": len(files[name]), "compression": 1}

    shards = [{"id": 1, **entry("T.1.tar.gz")}]
    bucket = {"bucketName": "energy", "retentionPolicies": [{"shardGroups": [{"shards": shards}]}]}
    manifest = {"kv": entry("T.bolt.gz"), "sql": entry("T.sqlite.gz"), "buckets": [bucket]}
    return {**files, "T.manifest": json.dumps(manifest).encode()}


def test_a_good_influx_backup_has_no_problems() -> None:
    assert watched(influx_backup()) == []


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("T.1.tar.gz", b"", "did not write T.1.tar.gz"),
        ("T.1.tar.gz", gzip.compress(b"T.1.tar.gz" * 50, mtime=0)[:-3], "wrote T.1.tar.gz, which does not unpack"),
        ("T.bolt.gz", None, "did not write T.bolt.gz"),
        ("T.manifest", None, "wrote 0 manifests"),
        ("U.manifest", b"{}", "wrote 2 manifests"),
        ("T.manifest", b"{", "wrote a manifest that cannot be read"),
        ("T.manifest", b"[]", "wrote a manifest that cannot be read"),
    ],
)
def test_what_its_exit_code_hides_is_found(name: str, content: bytes | None, said: str) -> None:
    files = {**influx_backup(), name: content}

    problems = watched({name: content for name, content in files.items() if content is not None})

    assert any(said in problem for problem in problems), problems


def test_a_bucket_without_data_is_found() -> None:
    assert watched(influx_backup(), ("energy", "siar_historical")) == ["has no data of the bucket siar_historical"]
