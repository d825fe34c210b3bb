"""Which driver is proposed for which data."""

from __future__ import annotations

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
        ("postgres:16", "Postgres", "command", "pg_dump"),
        ("registry.example.org:5000/team/postgres:16-alpine", "Postgres", "command", "pg_dump"),
        ("postgis/postgis", "Postgres", "command", "pg_dump"),
        ("timescale/timescaledb:latest-pg16", "Postgres", "command", "pg_dump"),
        ("mariadb:11", "MariaDB", "command", "mariadb-dump"),
        ("mysql@sha256:abc", "MySQL", "command", "mysqldump"),
        ("bitnami/mongodb:7", "MongoDB", "command", "mongodump"),
        ("redis:7", "Redis", "volume", ""),
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


def test_sqlite_is_stopped_while_its_volume_is_read() -> None:
    data = proposed(service("shop-web", environment={"DATABASE_URL": "sqlite:////data/app.db"}))

    assert (data.driver, data.fields) == ("volume", {"volume": "shop_data", "consistency": "stop"})


def test_no_password_stands_in_what_is_proposed() -> None:
    data = proposed(service("mariadb:11", environment={"MARIADB_ROOT_PASSWORD": "geheim123"}))

    assert "geheim123" not in str(data)


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
