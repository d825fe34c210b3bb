"""What conche believes of InfluxDB 2.7, asked of the stand-in, or of the real image:

CONCHE_TEST_INFLUXDB_IMAGE=influxdb:2.7 pytest tests/contract/test_influxdb.py tests/backup/test_{influxdb,running}.py
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from conche.backup.influx import BEGINNING, InfluxFailed
from conche.engine.connection import Engine
from conche.errors import NotFound
from conche.secret import Secret
from tests.backup.databases import Database
from tests.stacks import SmallStack, free_port

pytestmark = [pytest.mark.engine, pytest.mark.in_order]

NOW = datetime(2030, 1, 1, tzinfo=UTC)
WEEK = 7 * 86_400
POINTS = "".join(f"energy_prices,provider=ree price={n} {1_700_000_000 + n * WEEK}\n" for n in range(3))


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory, engine: Engine, base_image: str) -> Iterator[Database]:
    stack = SmallStack.create(tmp_path_factory.mktemp("influx") / "checkout", free_port())
    made = Database.create(stack, engine)
    made.write(POINTS)
    yield made
    stack.remove_all(engine)


def test_a_backup_is_bolt_sqlite_one_archive_a_shard_and_a_manifest(database: Database) -> None:
    database.influx_says("backup /tmp/one")

    names = database.sh("ls /tmp/one").split()
    manifest = json.loads(database.sh("cat /tmp/one/*.manifest"))
    [bucket] = [one for one in manifest["buckets"] if one["bucketName"] == "energy"]
    shards = [shard for policy in bucket["retentionPolicies"] for g in policy["shardGroups"] for shard in g["shards"]]
    stamp = names[0].split(".")[0]
    assert datetime.strptime(stamp, "%Y%m%dT%H%M%SZ")
    assert {f"{stamp}.bolt.gz", f"{stamp}.sqlite.gz", f"{stamp}.manifest"} <= set(names)
    assert len(shards) == 3
    assert {shard["fileName"] for shard in shards} <= set(names)
    assert all(shard["compression"] == 1 for shard in shards)
    sizes = dict(line.split()[::-1] for line in database.sh("cd /tmp/one; stat -c '%s %n' *").splitlines())
    assert [shard["size"] for shard in shards] == [int(sizes[shard["fileName"]]) for shard in shards]
    assert set(database.sh("stat -c %a /tmp/one/*").split()) == {"600"}
    database.sh(f"gzip -t /tmp/one/{shards[0]['fileName']} && tar tzf /tmp/one/{shards[0]['fileName']}")


def test_two_backups_of_the_same_data_have_the_same_shards(database: Database) -> None:
    assert database.influx.backup("/tmp/older") == ()
    assert database.influx.backup("/tmp/newer") == ()

    older, newer = [
        database.sh(f"cd {folder}; stat -c '%n %Y %s' *.tar.gz; sha256sum *.tar.gz")
        for folder in ("/tmp/older", "/tmp/newer")
    ]
    assert older.count("influxdb.") == 6
    assert older == newer


def test_a_wrong_bucket_ends_well_with_metadata_only(database: Database) -> None:
    database.sh(
        "INFLUX_TOKEN=$(cat /run/secrets/influxdb_token) influx backup /tmp/two --bucket nonsense;ls /tmp/two/*.bolt.gz"
    )

    assert database.sh("ls /tmp/two | grep -c tar.gz || true").strip() == "0"


def test_a_token_that_is_not_the_operators_is_refused(database: Database) -> None:
    database.sh("printf wrong > /tmp/wrong")
    influx = type(database.influx)(database.engine, database.influx.container, "/tmp/wrong")

    with pytest.raises(InfluxFailed, match="exited with 1") as refused:
        influx.backup("/tmp/three")

    assert "operator token" in refused.value.next_command
    assert database.token not in str(refused.value.evidence)


def test_an_operator_token_is_told_of_every_other_and_of_what_it_is_for_until_that_is_deleted(
    database: Database,
) -> None:
    influx = database.influx
    before = influx.authorizations()

    influx.make_operator("for a test")
    [new] = [one for one in influx.authorizations() if one.description == "for a test"]
    told = influx.authorizations(new.token)
    influx.revoke(new)

    assert [one.token.reveal() for one in before] == [database.token]
    assert {one.id for one in told} == {before[0].id, new.id}
    assert influx.authorizations() == before
    with pytest.raises(InfluxFailed, match="influx auth list exited with 1") as refused:
        influx.authorizations(new.token)
    assert new.token.reveal() not in str(refused.value.evidence)


def test_a_token_that_reads_one_bucket_neither_writes_there_nor_reads_another(database: Database) -> None:
    influx = database.influx
    [operator] = influx.authorizations()
    influx.make_reader("reads", ["energy"])
    [reader] = [one for one in influx.authorizations() if one.id != operator.id]
    before = influx.counts("energy", BEGINNING, NOW)

    able = {
        (kind, bucket): set(influx.may(token, bucket))
        for kind, token in (("reader", reader.token), ("operator", operator.token), ("none", Secret("nonsense")))
        for bucket in ("energy", "nonsense")
    }
    influx.revoke(reader)

    assert able == {
        ("reader", "energy"): {"read"}, ("reader", "nonsense"): set(), ("operator", "energy"): {"read", "write"},
        ("operator", "nonsense"): set(), ("none", "energy"): set(), ("none", "nonsense"): set(),
    }  # fmt: skip
    assert influx.counts("energy", BEGINNING, NOW) == before
    with pytest.raises(NotFound, match="has no bucket nonsense"):
        influx.make_reader("reads", ["energy", "nonsense"])
    assert influx.authorizations() == (operator,)


def test_its_own_program_goes_by_a_token_that_is_put_into_its_configuration(database: Database) -> None:
    influx = database.influx
    [old] = influx.authorizations()
    influx.make_operator("for its own program")
    [new] = [one for one in influx.authorizations() if one.id != old.id]
    shown = "stat -c '%a %U' /etc/influxdb2/influx-configs; ls /etc/influxdb2"
    mode = database.sh(shown)

    changed = influx.replace_in_configuration(old.token, new.token)
    by_own = database.sh("influx bucket list --json --org factory")
    again = influx.replace_in_configuration(old.token, new.token)
    influx.replace_in_configuration(new.token, old.token)
    influx.revoke(new)

    assert (changed, again, "energy" in by_own, database.sh(shown)) == (True, False, True, mode)


def test_counts_and_deletions_keep_to_their_time(database: Database) -> None:
    before = database.influx.counts("energy", BEGINNING, NOW)
    middle = datetime.fromtimestamp(1_700_000_000 + WEEK, UTC)
    late = database.influx.counts("energy", middle, NOW)

    database.influx.delete("energy", BEGINNING, middle)

    assert before == {"energy_prices": 3}
    assert late == {"energy_prices": 2}
    assert database.influx.counts("energy", BEGINNING, NOW) == {"energy_prices": 2}
    assert database.influx.counts("energy", BEGINNING, middle) == {}


def test_the_servers_own_deletion_takes_its_last_moment_too(database: Database) -> None:
    database.write("moments value=1 1800000000\nmoments value=2 1800000001\n")
    database.sh(
        "INFLUX_TOKEN=$(cat /run/secrets/influxdb_token) influx delete --org factory --bucket energy"
        " --start 2027-01-15T08:00:00Z --stop 2027-01-15T08:00:00Z"
    )

    assert database.influx.counts("energy", datetime.fromtimestamp(1_800_000_000, UTC), NOW) == {"moments": 1}
    database.influx.delete("energy", datetime.fromtimestamp(1_800_000_000, UTC), NOW)


def test_a_bucket_is_restored_under_another_name_and_never_over_one(database: Database) -> None:
    database.influx.backup("/tmp/four")
    there = database.influx.counts("energy", BEGINNING, NOW)

    database.influx.restore_bucket("/tmp/four", "energy", "energy_verify")
    with pytest.raises(InfluxFailed, match="exited with 1"):
        database.influx.restore_bucket("/tmp/four", "energy", "energy_verify")

    assert database.influx.buckets() == ("energy", "energy_verify")
    assert database.influx.counts("energy_verify", BEGINNING, NOW) == there
    database.influx.delete_bucket("energy_verify")
    assert database.influx.buckets() == ("energy",)


def test_a_full_restore_replaces_everything(database: Database) -> None:
    database.influx.backup("/tmp/five")
    there = database.influx.counts("energy", BEGINNING, NOW)
    database.write(f"weather temperature=1 {1_700_000_000 + 9 * WEEK}\n")

    database.influx.restore_all("/tmp/five")

    assert database.influx.counts("energy", BEGINNING, NOW) == there
