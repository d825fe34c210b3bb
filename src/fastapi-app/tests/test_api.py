from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

import pytest
from conftest import NOW, MakeSettings
from fake_influx import READER, WRITER, FakeInflux
from fake_sources import AEMET_KEY, AEMET_PATH, OWM_KEY, OWM_PATH, REE_PATH, FakeSources
from fastapi import FastAPI
from fastapi.testclient import TestClient
from tenacity import wait_none

from app.errors import ConfigurationError
from app.main import build_app

Start = Callable[..., TestClient]


@pytest.fixture
def start(make_settings: MakeSettings) -> Iterator[Start]:
    """A client of a started application with the given settings."""
    with ExitStack() as running:

        def started(**changes: object) -> TestClient:
            app = build_app(make_settings(**changes), clock=lambda: NOW, wait=wait_none())
            return running.enter_context(TestClient(app, raise_server_exceptions=False))

        yield started


def test_health_tells_the_time_in_utc_and_the_version(start: Start) -> None:
    answer = start(app_version="1.2.3").get("/health")
    assert answer.status_code == 200
    assert answer.json() == {
        "status": "healthy",
        "timestamp": "2026-07-26T10:30:00+00:00",
        "version": "1.2.3",
    }


def test_health_does_not_fall_with_the_store(start: Start, influx: FakeInflux) -> None:
    influx.up = False
    client = start(environment="production", influxdb_url=influx.url, influxdb_token=WRITER)
    assert client.get("/health").status_code == 200


def test_readiness_follows_the_store(start: Start, influx: FakeInflux) -> None:
    influx.up = False
    client = start(environment="production", influxdb_url=influx.url, influxdb_token=WRITER)
    answer = client.get("/ready")
    assert answer.status_code == 503
    assert answer.json()["ready"] is False
    assert answer.json()["checks"]["influxdb"].startswith("fail: ")
    influx.up = True
    answer = client.get("/ready")
    assert answer.status_code == 200
    assert (answer.json()["ready"], answer.json()["checks"]) == (True, {"influxdb": "pass"})


def test_version_tells_which_build_runs(start: Start) -> None:
    app = start(git_revision="abc123", conche_image_digest="sha256:12", conche_release="r7")
    body = app.get("/version").json()
    assert body.pop("python_version").startswith("3.")
    assert body == {
        "version": "1.0.0",
        "git_revision": "abc123",
        "image_digest": "sha256:12",
        "release": "r7",
        "environment": "development",
    }


@pytest.mark.parametrize("path", ["/prices", "/weather"])
@pytest.mark.parametrize(("query", "hours"), [("", 24), ("?hours=1", 1), ("?hours=744", 744)])
def test_a_first_start_answers_each_hour_asked_for_with_the_current_one_last(
    start: Start, path: str, query: str, hours: int
) -> None:
    body = start().get(f"{path}{query}").json()
    readings = body[path.removeprefix("/")]
    assert body["hours"] == body["count"] == len(readings) == hours
    assert readings[-1]["timestamp"] == "2026-07-26T10:00:00Z"


@pytest.mark.parametrize("path", ["/prices", "/weather"])
@pytest.mark.parametrize("hours", ["0", "-1", "745", "many", "1.5", ""])
def test_hours_out_of_range_are_refused_with_a_reason(start: Start, path: str, hours: str) -> None:
    answer = start().get(path, params={"hours": hours})
    assert answer.status_code == 422
    assert answer.json()["error"] == "invalid-request"
    assert answer.json()["message"].startswith("query.hours: Input should be")


def test_an_outage_of_the_store_is_a_503_with_a_body(start: Start, influx: FakeInflux) -> None:
    client = start(environment="production", influxdb_url=influx.url, influxdb_token=WRITER)
    influx.up = False
    answer = client.get("/prices")
    assert answer.status_code == 503
    assert answer.json()["error"] == "store-unavailable"


@pytest.mark.parametrize(("path", "status"), [("/nowhere", 404), ("/ingest/run", 405)])
def test_errors_of_the_framework_have_the_same_body(start: Start, path: str, status: int) -> None:
    answer = start().get(path)
    assert answer.status_code == status
    assert set(answer.json()) == {"error", "message"}


def test_a_bug_is_a_500_that_tells_the_client_nothing(start: Start) -> None:
    client = start()
    app = client.app
    assert isinstance(app, FastAPI)

    def broken() -> None:
        raise RuntimeError("inner detail")

    app.add_api_route("/broken", broken)
    answer = client.get("/broken")
    assert answer.status_code == 500
    assert answer.json() == {"error": "internal", "message": "the application failed; see its log"}


def test_ingestion_is_forbidden_where_it_is_off(start: Start, sources: FakeSources) -> None:
    answer = start().post("/ingest/run")
    assert answer.status_code == 403
    assert answer.json()["error"] == "ingestion-off"
    assert sources.calls == []


def test_what_is_ingested_is_served(start: Start) -> None:
    client = start(ingestion_enabled=True)
    answer = client.post("/ingest/run")
    assert answer.status_code == 200
    assert answer.json() == {
        "written": {"ree": 24, "aemet": 1, "openweathermap": 1},
        "errors": {},
        "skipped": [],
    }
    prices = client.get("/prices?hours=2").json()["prices"]
    assert [price["price_eur_mwh"] for price in prices] == [111.0, 112.0]
    assert {one["data_source"] for one in client.get("/weather").json()["weather"]} == {
        "aemet",
        "openweathermap",
    }


def test_production_ingests_into_influxdb(start: Start, influx: FakeInflux) -> None:
    client = start(environment="production", influxdb_url=influx.url, influxdb_token=WRITER)
    assert client.post("/ingest/run").status_code == 200
    assert {measurement for measurement, _, _ in influx.points} == {"energy_prices", "weather_data"}
    assert client.get("/prices?hours=1").json()["prices"] == [
        {"timestamp": "2026-07-26T10:00:00Z", "price_eur_mwh": 112.0, "provider": "ree"}
    ]


def test_a_partial_ingestion_succeeds_and_says_what_failed(start: Start, sources: FakeSources) -> None:
    sources.say(AEMET_PATH, {"descripcion": "API key invalido", "estado": 401})
    answer = start(ingestion_enabled=True, openweathermap_api_key=None).post("/ingest/run")
    assert answer.status_code == 200
    assert answer.json() == {
        "written": {"ree": 24},
        "errors": {"aemet": "estado 401: API key invalido"},
        "skipped": ["openweathermap"],
    }


def test_an_ingestion_that_gets_nothing_is_a_502_without_any_key(start: Start, sources: FakeSources) -> None:
    for path in (REE_PATH, AEMET_PATH, OWM_PATH):
        sources.say(path, {"message": f"Invalid API key {OWM_KEY}"}, status=401)
    answer = start(ingestion_enabled=True).post("/ingest/run")
    assert answer.status_code == 502
    assert set(answer.json()["errors"]) == {"ree", "aemet", "openweathermap"}
    assert AEMET_KEY not in answer.text
    assert OWM_KEY not in answer.text


def test_the_schedule_ingests_without_being_asked(start: Start, sources: FakeSources) -> None:
    start(ingestion_enabled=True, ingestion_interval_minutes=60)
    assert sources.arrived.wait(timeout=30)


def test_a_training_on_stored_prices_shows_in_the_registry(start: Start) -> None:
    client = start()
    assert client.get("/models").json() == {}
    answer = client.post("/models/train")
    assert answer.status_code == 201
    entry = answer.json()
    name = entry.pop("type")
    assert entry["metrics"]["samples"] == 90 * 24
    assert client.get("/models").json() == {name: {"models": [entry], "latest": entry}}


def test_a_training_without_enough_stored_prices_is_a_conflict(start: Start, influx: FakeInflux) -> None:
    client = start(influxdb_url=influx.url, influxdb_token=READER)
    answer = client.post("/models/train")
    assert answer.status_code == 409
    assert answer.json()["error"] == "too-few-prices"


def test_development_does_not_start_with_a_token_that_can_write(start: Start, influx: FakeInflux) -> None:
    with pytest.raises(ConfigurationError, match="can write") as caught:
        start(influxdb_url=influx.url, influxdb_token=WRITER)
    assert WRITER not in repr(caught.value)


def test_development_reads_production_with_a_reading_token(start: Start, influx: FakeInflux) -> None:
    hour = int((NOW.replace(minute=0) - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(microseconds=1)) * 1000
    influx.write(WRITER, "energy_data", f"energy_prices,provider=ree price_eur_mwh=77.5 {hour}".encode())
    client = start(influxdb_url=influx.url, influxdb_token=READER)
    assert client.get("/ready").json()["checks"] == {"influxdb (read-only)": "pass"}
    assert [price["price_eur_mwh"] for price in client.get("/prices").json()["prices"]] == [77.5]


def test_development_starts_without_its_influxdb_and_is_not_ready(start: Start, influx: FakeInflux) -> None:
    influx.up = False
    client = start(influxdb_url=influx.url, influxdb_token=READER)
    assert client.get("/health").status_code == 200
    assert client.get("/ready").status_code == 503


@pytest.mark.parametrize(("environment", "status"), [("development", 200), ("production", 404)])
def test_the_api_documentation_is_for_development(start: Start, environment: str, status: int) -> None:
    client = start(environment=environment)
    assert [client.get(path).status_code for path in ("/docs", "/openapi.json")] == [status, status]


OWN = {"Host": "factory.example:8001"}


@pytest.mark.parametrize("path", ["/ingest/run", "/models/train"])
@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": "https://wiki.example"},
        {"Origin": "https://elsewhere.example"},
        {"Origin": "http://factory.example:8000"},
        {"Origin": "null"},
    ],
)
def test_a_page_of_another_site_changes_nothing(start: Start, path: str, headers: dict[str, str]) -> None:
    client = start(ingestion_enabled=True)
    answer = client.post(path, headers={**OWN, **headers})
    assert (answer.status_code, answer.json()["error"]) == (403, "cross-site")
    assert client.get("/models").json() == {}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Sec-Fetch-Site": "same-origin", "Origin": "http://factory.example:8001"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": "http://factory.example:8001"},
    ],
)
def test_its_own_pages_and_other_programs_may(start: Start, headers: dict[str, str]) -> None:
    assert start(ingestion_enabled=True).post("/ingest/run", headers={**OWN, **headers}).status_code == 200


def test_a_page_of_another_site_may_read(start: Start) -> None:
    assert start().get("/health", headers={**OWN, "Sec-Fetch-Site": "cross-site"}).status_code == 200
