"""The influxdb component: online, cold, what its own exit code hides, restore and way back."""

from __future__ import annotations

import gzip
import io
import json
import shlex
import subprocess
import tarfile
from datetime import UTC, datetime
from typing import cast

import pytest

from conche.backup import drill
from conche.backup.drivers.influxdb import Watch
from conche.backup.entries import tar_entries
from conche.backup.inflate import Forward
from conche.backup.influx import BEGINNING, Influx, InfluxFailed
from conche.backup.members import Members
from conche.backup.reading import Reading
from conche.command import Invocation
from conche.engine import containers, networks, programs
from conche.engine.connection import Engine
from conche.env.influx.prune import prune
from conche.errors import Refused, Unreachable
from conche.process import Completed
from conche.secret import Captured, Secret
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
    containers.stop(engine, database.influx.container)
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
def test_a_backup_that_is_older_than_the_token_says_which_one_is_valid_and_the_next_ones_go_by_it(
    database: Database,
) -> None:
    older = database.backup().name
    made = json.loads(database.influx_says("auth create --operator --org factory --json"))
    database.stack.write("token.txt", made["token"])
    database.write(SECOND)

    done = database.stack.invoke("backup.restore", older, "--force", "--json")
    again = database.stack.invoke("backup.create")
    back = database.stack.invoke("backup.restore", older, "--force")

    value = json.loads(done.stdout)["value"]
    assert done.returncode == 3, done.stderr
    assert "rejects the one in /run/secrets/influxdb_token" in value["shut_out"][0]
    assert "| invoke secrets.set influxdb_token" in value["shut_out"][2]
    valid = database.sh(value["shut_out"][2].partition(" exec ")[2].partition(" ")[2].partition(" | invoke")[0]).strip()
    assert valid == database.token
    assert [made["token"] in text or database.token in text for text in (done.stdout, done.stderr)] == [False, False]
    assert (again.returncode, back.returncode) == (0, 3), again.stderr
    assert "rejects the token in /run/secrets/influxdb_token: influx backup used the one in" in again.stderr
    database.stack.write("token.txt", database.token)
    assert counts(database) == {"prices": 1}


@pytest.mark.parametrize("given", [None, Secret("given")])
def test_what_a_failed_question_had_printed_is_not_shown_since_it_may_be_tokens(
    monkeypatch: pytest.MonkeyPatch, given: Secret | None
) -> None:
    printed = Completed(("docker",), 1, Captured('[{"token": "canary"}]', None), Captured("", None))
    monkeypatch.setattr(programs, "run", lambda *_, **__: printed)
    container = containers.Container("c0ffee", "influxdb", "p", "influxdb", "running", "none", "i", "sha256:1", "h")

    with pytest.raises(InfluxFailed) as failed:
        Influx(Engine(), container, "/run/secrets/influxdb_token").authorizations(given)

    assert failed.value.evidence == ()
    assert "canary" not in str(failed.value)


@pytest.mark.engine
def test_what_it_held_before_a_restore_comes_back_with_its_token_and_so_does_what_was_restored(
    database: Database,
) -> None:
    older = database.backup().name
    made = json.loads(database.influx_says("auth create --operator --org factory --json"))
    database.stack.write("token.txt", made["token"])
    database.write(SECOND)
    assert database.stack.invoke("backup.restore", older, "--force").returncode == 3
    locked_out = database.influx.token()

    done = database.stack.invoke("backup.undo", "--force", "--json")
    back = (database.influx.token(), counts(database))
    again = database.stack.invoke("backup.undo", "--force")

    value = json.loads(done.stdout)["value"]
    assert (locked_out, done.returncode, value["shut_out"]) == ("refused", 0, []), done.stderr
    assert back == ("valid", {"prices": 2})
    assert [one["component"] for one in value["unkept"]] == ["influxdb"]
    assert (again.returncode, database.influx.token()) == (3, "refused"), again.stderr
    database.stack.write("token.txt", database.token)
    assert counts(database) == {"prices": 1}
    assert [made["token"] in text or database.token in text for text in (done.stdout, done.stderr)] == [False, False]
    assert database.sh("ls -d /tmp/conche-* || true") == ""


@pytest.mark.engine
def test_what_is_written_during_a_restore_is_lost_and_that_is_said(database: Database) -> None:
    name = database.backup().name
    begun = datetime.now(UTC)

    done = database.stack.invoke("backup.restore", name, "--force", "--json")

    [unkept] = json.loads(done.stdout)["value"]["unkept"]
    assert unkept["component"] == "influxdb"
    assert begun < datetime.fromisoformat(unkept["since"]) < datetime.fromisoformat(unkept["until"])
    assert "neither in the restored data nor in the copy put aside" in done.stderr


@pytest.mark.engine
def test_a_token_that_nothing_accepts_is_the_reason_in_the_record(database: Database) -> None:
    database.stack.write("token.txt", "wrong")
    database.sh("sed -i 's/token = .*/token = \"wrong too\"/' /etc/influxdb2/influx-configs")

    done = database.stack.invoke("backup.create", "--json")

    assert done.returncode == 4, done.stderr
    evidence = " ".join(json.loads(done.stdout)["error"]["evidence"])
    assert "influx backup exited with 1." in evidence
    assert "401" in evidence
    assert "Next: give it the operator token" in evidence


@pytest.mark.engine
def test_a_configuration_that_has_lost_its_data_is_moved_aside_as_it_is_said_and_a_backup_brings_them_back(
    database: Database, engine: Engine
) -> None:
    name, stack = database.backup().name, database.stack
    assert stack.invoke("env.down").returncode == 0
    networks.remove_volume(engine, f"{stack.name}-data")

    failed = stack.invoke("env.up", "--json")
    error = json.loads(failed.stdout)["error"]
    moved, again = (line.partition("    #")[0] for line in error["next"].splitlines())
    subprocess.run(shlex.split(moved), check=True)
    stack.up()
    restored = stack.invoke("backup.restore", name, "--force")

    assert failed.returncode == 4
    assert 'config name "default" already exists' in error["message"]
    assert again == "invoke env.up --env dev"
    assert restored.returncode == 0, restored.stderr
    assert counts(database) == {"prices": 1}


@pytest.mark.engine
@pytest.mark.skipif(bool(REAL), reason="a shard cannot be taken from a real server behind its back")
def test_a_shard_that_is_gone_degrades_the_backup_and_is_no_way_back(database: Database) -> None:
    whole = database.backup().name
    database.sh("rm -r /var/lib/influxdb2/engine/data/1")

    done = database.stack.invoke("backup.create", "--json")
    refused = database.stack.invoke("backup.restore", whole, "--force", "--json")
    accepted = database.stack.invoke("backup.restore", whole, "--force", "--no-way-back")

    value = json.loads(done.stdout)["value"]
    assert done.returncode == 3
    assert any("WARN: Shard 1 removed during backup" in words for words in value["missing"])
    assert any("has no data of the bucket energy" in words for words in value["missing"])
    assert refused.returncode == 4
    assert "influx backup said: WARN: Shard 1 removed" in json.loads(refused.stdout)["error"]["message"]
    assert accepted.returncode == 0, accepted.stderr
    assert counts(database) == {"prices": 1}


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


def test_a_trial_that_fails_says_what_is_left_and_what_to_type() -> None:
    def hangs() -> str:
        raise Unreachable(
            "influx-hangs", "db does not delete the bucket b.", next_command="docker restart db    # heals it\nagain"
        )

    result = drill._tried("db", hangs)

    assert not result.well
    assert result.said == "db does not delete the bucket b. Next: docker restart db    # heals it"


def packed(files: dict[str, bytes]) -> Members:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(f"dump/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return Members(Forward(io.BytesIO(stream.getvalue())))


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


@pytest.mark.parametrize("age", ["99999y", "200y", "23h", "0d", "90", "-1d", "1d 1w", "٣d", ""])
def test_what_is_no_age_is_refused_before_anything_is_asked(age: str) -> None:
    with pytest.raises(Refused) as refused:
        prune(cast(Invocation, None), age, "dev", buckets=(), confirm=None)

    assert refused.value.code == "not-an-age"
