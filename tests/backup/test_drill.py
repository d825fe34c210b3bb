"""backup.drill on the real engine: copies and scratch buckets come up, are looked at, and go."""

from __future__ import annotations

import json
import subprocess

import pytest

from conche.backup.influx import BEGINNING
from conche.engine.connection import Engine
from tests.backup.checkouts import with_backup
from tests.backup.databases import Database
from tests.backup.test_influxdb import FIRST, NOW
from tests.stacks import SmallStack

pytestmark = pytest.mark.engine


def results(stack: SmallStack) -> dict[str, tuple[bool, str]]:
    said = json.loads(stack.invoke("backup.drill", "--json").stdout)["value"]["results"]
    return {one["component"]: (one["well"], one["said"]) for one in said}


def test_a_copy_of_the_service_is_healthy_on_the_restored_data(small: SmallStack, engine: Engine) -> None:
    with_backup(small)
    small.replace("stack.yaml", "environment: dev}", "environment: dev, drill: true}")
    small.up()
    inside = ["docker", "exec", f"{small.name}-web", "sh", "-c", "echo one > /kept/journal"]
    subprocess.run(inside, check=True)
    made = small.invoke("backup.create")
    before = [(c.id, c.started_at) for c in small.containers(engine)]

    found = results(small)

    assert made.returncode == 0, made.stderr
    assert found["kept, served by a copy"][0], found
    assert found["kept, served by a copy"][1].startswith("web was healthy on it after")
    assert [(c.id, c.started_at) for c in small.containers(engine)] == before
    assert [v["Name"] for v in engine.client.api.volumes()["Volumes"] if small.name in v["Name"]] == [
        f"{small.name}-kept"
    ]
    assert engine.client.api.containers(all=True, filters={"label": f"io.conche.helper-of={small.name}-kept"}) == []


def test_a_copy_that_does_not_become_healthy_fails_the_drill(small: SmallStack, engine: Engine) -> None:
    with_backup(small)
    small.replace("stack.yaml", "environment: dev}", "environment: dev, drill: true}")
    poisoned = "if __import__('os').path.exists('/kept/poison'): raise SystemExit('poisoned')\nbehaviour = path"
    small.replace("docker/server.py", "behaviour = path", poisoned)
    small.up()
    inside = ["docker", "exec", f"{small.name}-web", "sh", "-c", "echo one > /kept/journal; touch /kept/poison"]
    subprocess.run(inside, check=True)
    assert small.invoke("backup.create").returncode == 0

    failed = small.invoke("backup.drill", "--json")

    well = {one["component"]: one["well"] for one in json.loads(failed.stdout)["value"]["results"]}
    assert failed.returncode == 1
    assert well["kept, served by a copy"] is False
    assert well["kept"] is True
    assert [c.state for c in small.containers(engine)] == ["running"]
    assert [v["Name"] for v in engine.client.api.volumes()["Volumes"] if small.name in v["Name"]] == [
        f"{small.name}-kept"
    ]


def test_a_database_is_restored_into_scratch_buckets_and_counted(small: SmallStack, engine: Engine) -> None:
    database = Database.create(small, engine)
    database.write(FIRST)
    database.backup()

    found = results(small)

    assert found["influxdb, in scratch buckets"] == (True, "energy: 1 values, live 1")
    assert database.influx.buckets() == ("energy",)
    assert database.influx.counts("energy", BEGINNING, NOW) == {"prices": 1}
