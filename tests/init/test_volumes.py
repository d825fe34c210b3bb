"""Which driver is proposed for which data."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from conche.init.volumes import Data, proposals

ROOT = Path("/shop")

VOLUMES = {"data": {"name": "shop_data"}, "more": {"name": "shop_more"}}


def service(image: str, target: str = "/data", **more: Any) -> dict[str, Any]:
    return {"image": image, "volumes": [{"type": "volume", "source": "data", "target": target}], **more}


def proposed(body: dict[str, Any]) -> Data:
    [found] = proposals(ROOT, {"db": body}, VOLUMES)
    return found


@pytest.mark.parametrize(
    ("image", "why", "driver", "program"),
    [
        ("postgres:16", "Postgres", "postgres", ""),
        ("registry.example.org:5000/team/postgres:16-alpine", "Postgres", "postgres", ""),
        ("postgis/postgis", "Postgres", "postgres", ""),
        ("timescale/timescaledb:latest-pg16", "TimescaleDB", "command", "pg_dump"),
        ("mariadb:11", "MariaDB", "mariadb", ""),
        ("mysql@sha256:abc", "MySQL", "mariadb", ""),
        ("bitnami/mongodb:7", "MongoDB", "command", "mongodump"),
        ("redis:7", "Redis", "redis", ""),
        ("eqalpha/keydb", "KeyDB", "volume", ""),
        ("influxdb:2.7", "InfluxDB", "influxdb", ""),
        ("influxdb:1.8", "InfluxDB", "volume", ""),
        ("nginx:1.27", "a named volume", "volume", ""),
    ],
)
def test_the_name_of_an_image_decides(image: str, why: str, driver: str, program: str) -> None:
    data = proposed(service(image))

    assert (data.why, data.driver) == (why, driver)
    assert program in " ".join(data.fields.get("dump", []))


@pytest.mark.parametrize(
    "image", ["prom/mysqld-exporter", "dpage/pgadmin4", "oliver006/redis_exporter", "mongo-express"]
)
def test_a_program_beside_a_database_is_no_database(image: str) -> None:
    assert proposed(service(image)).driver == "volume"


def test_a_path_or_a_port_decides_where_the_name_says_nothing() -> None:
    by_path = proposed(service("team/store:1", "/var/lib/postgresql/data"))
    by_port = proposed(service("team/store:1", "/store", expose=["5432"]))
    built = proposed(service("shop-web", "/store", expose=["5432"], build={"context": "."}))

    assert [one.why for one in (by_path, by_port, built)] == ["Postgres", "Postgres", "a named volume"]


def test_a_redis_whose_password_only_its_command_line_has_is_backed_up_by_its_files() -> None:
    hidden = service("redis:7", command=["redis-server", "--requirepass", "geheim123"])

    assert proposed(hidden).driver == "volume"
    assert proposed({**hidden, "environment": {"REDIS_PASSWORD_FILE": "/run/secrets/redis"}}).driver == "redis"


def test_what_depends_on_a_database_stops_while_it_is_restored() -> None:
    services = {"db": service("postgres:16"), "web": {"image": "web", "depends_on": {"db": {}}}, "mail": {"image": "m"}}

    [found] = proposals(ROOT, services, VOLUMES)

    assert found.fields == {"service": "db", "services": ["web"]}


def test_sqlite_is_stopped_while_its_volume_is_read() -> None:
    data = proposed(service("shop-web", environment={"DATABASE_URL": "sqlite:////data/app.db"}))

    assert (data.driver, data.fields) == ("volume", {"volume": "shop_data", "consistency": "stop"})


def test_no_password_stands_in_what_is_proposed() -> None:
    data = proposed(service("mariadb:11", environment={"MARIADB_ROOT_PASSWORD": "geheim123"}))

    assert "geheim123" not in str(data)


TOOL = """\
#!/bin/sh
echo "$0 $*" > "$SAID"
echo "$MYSQL_PWD" >> "$SAID"
case "$*" in *"/dev/fd/3"*) cat /dev/fd/3 >> "$SAID";; esac
cat
"""
"""Stands for a database's program: notes its argv, and the passwords it is given; passes its input on."""


@pytest.mark.parametrize("by_file", [False, True])
@pytest.mark.parametrize(
    ("image", "tools", "variable", "given"),
    [
        ("mongo:7", ("mongodump", "mongorestore"), "MONGO_INITDB_ROOT_PASSWORD", "password: 'it''s \"50%\" $x'"),
    ],
)
def test_a_database_is_dumped_and_restored_with_the_password_that_its_image_was_given(
    tmp_path: Path, image: str, tools: tuple[str, str], variable: str, given: str, by_file: bool
) -> None:
    fields = proposed(service(image)).fields
    for tool in tools:
        (tmp_path / tool).write_text(TOOL)
        (tmp_path / tool).chmod(0o755)
    (tmp_path / "password").write_text('it\'s "50%" $x')
    said = tmp_path / "said"
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SAID": str(said),
        "MONGO_INITDB_ROOT_USERNAME": "root",
        **({f"{variable}_FILE": str(tmp_path / "password")} if by_file else {variable: 'it\'s "50%" $x'}),
    }

    for argv, tool in zip((fields["dump"], fields["restore"]), tools, strict=True):
        done = subprocess.run(argv, env=environment, input=b"data", capture_output=True, check=True)

        called, *passwords = said.read_text().splitlines()
        assert called.startswith(f"{tmp_path / tool} ")
        assert "50%" not in called
        assert given in passwords
        assert (done.stdout, done.stderr) == (b"data", b"")


def test_a_database_without_a_password_is_asked_for_none(tmp_path: Path) -> None:
    fields = proposed(service("mongo:7")).fields
    (tmp_path / "mongodump").write_text(TOOL)
    (tmp_path / "mongodump").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SAID": str(tmp_path / "said")}

    subprocess.run(fields["dump"], env=environment, stdin=subprocess.DEVNULL, check=True, capture_output=True)

    assert (tmp_path / "said").read_text().splitlines()[0] == f"{tmp_path}/mongodump --quiet --archive"


def test_what_is_no_data_for_certain_is_left_undecided(tmp_path: Path) -> None:
    (tmp_path / "nginx.conf").write_text("x")
    mounts = [
        {"type": "bind", "source": str(tmp_path / "nginx.conf"), "target": "/etc/nginx/nginx.conf"},
        {"type": "bind", "source": str(tmp_path / "content"), "target": "/content"},
        {"type": "bind", "source": str(tmp_path / "fixed"), "target": "/fixed", "read_only": True},
        {"type": "bind", "source": str(tmp_path), "target": "/code"},
        {"type": "bind", "source": "/var/run/docker.sock", "target": "/var/run/docker.sock"},
        {"type": "volume", "source": "data", "target": "/code/node_modules"},
        {"type": "volume", "target": "/anonymous"},
    ]
    body = {"image": "shop-web", "build": {"context": str(tmp_path / "web")}, "volumes": mounts}

    found = proposals(tmp_path, {"web": body}, VOLUMES)

    assert {one.source: one.driver for one in found} == {str(tmp_path / "content"): "", "shop_data": ""}
    assert (found[0].choice, found[0].fields) == ("archive", {"paths": ["content"]})


def test_what_two_services_share_is_kept_once_and_names_differ() -> None:
    shared = {"type": "volume", "source": "data", "target": "/data"}
    other = {"type": "volume", "source": "more", "target": "/data"}
    services = {
        "web": {"image": "web", "volumes": [shared]},
        "worker": {"image": "web", "volumes": [shared]},
        "data": {"image": "postgres", "volumes": [other]},
    }

    found = proposals(ROOT, services, VOLUMES)

    assert [(one.name, one.source) for one in found] == [("data", "shop_data"), ("data-2", "shop_more")]


@pytest.mark.parametrize("source", ["/dev/net/tun", "/proc/sys", "/run/udev", "/lib/modules", "/var/run/docker.sock"])
def test_what_is_the_hosts_own_is_no_data(source: str) -> None:
    mount = {"type": "bind", "source": source, "target": source}

    assert proposals(ROOT, {"vpn": {"image": "vpn", "volumes": [mount]}}, {}) == []


def test_a_folder_that_nobody_here_may_look_at_may_still_hold_data() -> None:
    mount = {"type": "bind", "source": f"/{'n' * 300}", "target": "/content"}

    [found] = proposals(ROOT, {"web": {"image": "nginx", "volumes": [mount]}}, {})

    assert (found.name, found.driver, found.choice) == ("web-content", "", "volume")
