import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from conftest import NOW, MakeSettings
from fake_sources import AEMET_KEY, AEMET_PATH, OBSERVATIONS_PATH, OWM_KEY, OWM_PATH, REE_PATH, FakeSources
from httpx2 import AsyncClient
from tenacity import wait_none

from app.errors import SourceFailed
from app.readings import Price, Weather
from app.settings import Settings
from app.sources import ATTEMPTS, sources


def fetch(settings: Settings, name: str, now: datetime = NOW) -> Sequence[Price | Weather]:
    async def fetching() -> Sequence[Price | Weather]:
        async with AsyncClient(timeout=5) as client:
            [source] = [one for one in sources(settings, client, wait_none()) if one.name == name]
            return await source.fetch(now)

    return asyncio.run(fetching())


PATHS = [("ree", REE_PATH), ("aemet", AEMET_PATH), ("aemet", OBSERVATIONS_PATH), ("openweathermap", OWM_PATH)]


def test_ree_gives_the_pvpc_of_each_hour_in_utc_and_not_the_spot_market(make_settings: MakeSettings) -> None:
    prices = fetch(make_settings(), "ree")
    assert len(prices) == 24
    first = Price(timestamp=datetime(2026, 7, 25, 22, tzinfo=UTC), price_eur_mwh=100.0, provider="ree")
    assert prices[0] == first


@pytest.mark.parametrize(
    ("now", "day"),
    [
        (datetime(2026, 7, 25, 21, 59, tzinfo=UTC), "2026-07-25"),
        (datetime(2026, 7, 25, 22, 0, tzinfo=UTC), "2026-07-26"),
        (datetime(2026, 1, 25, 22, 30, tzinfo=UTC), "2026-01-25"),
    ],
)
def test_ree_is_asked_for_the_day_it_is_in_spain(
    make_settings: MakeSettings, sources: FakeSources, now: datetime, day: str
) -> None:
    fetch(make_settings(), "ree", now)
    [call] = sources.calls
    assert call.query == {"start_date": f"{day}T00:00", "end_date": f"{day}T23:59", "time_trunc": "hour"}


@pytest.mark.parametrize("hours", [23, 25])
def test_a_day_on_which_the_clock_changes_has_as_many_prices_as_ree_gives(
    make_settings: MakeSettings, sources: FakeSources, hours: int
) -> None:
    values = [{"value": 1.0, "datetime": f"2026-10-25T{hour % 24:02}:00:00+02:00"} for hour in range(hours)]
    sources.say(REE_PATH, {"included": [{"id": "1001", "attributes": {"values": values}}]})
    assert len(fetch(make_settings(), "ree")) == hours


def test_aemet_is_asked_in_two_steps_with_the_key_in_a_header_of_the_first(
    make_settings: MakeSettings, sources: FakeSources
) -> None:
    [weather] = fetch(make_settings(), "aemet")
    assert weather == Weather(
        timestamp=datetime(2026, 7, 26, 10, tzinfo=UTC),
        station_id="5279X",
        data_source="aemet",
        temperature=31.4,
        humidity=24.0,
        wind_speed=3.2,
        precipitation=0.0,
    )
    first, second = sources.calls
    assert (first.path, first.query, first.headers["api_key"]) == (AEMET_PATH, {}, AEMET_KEY)
    assert second.path == OBSERVATIONS_PATH
    assert "api_key" not in second.headers


@pytest.mark.parametrize("content_type", ["text/plain", "text/plain;charset=ISO-8859-15"])
def test_aemet_is_read_in_its_old_encoding_also_where_it_does_not_name_it(
    make_settings: MakeSettings, sources: FakeSources, content_type: str
) -> None:
    refusal = {"descripcion": "clave no válida", "estado": 401, "datos": f"{sources.url}{OBSERVATIONS_PATH}"}
    body = json.dumps(refusal, ensure_ascii=False).encode("iso-8859-15")
    sources.answers[AEMET_PATH] = (200, body, content_type)
    with pytest.raises(SourceFailed, match=r"^estado 401: clave no válida$"):
        fetch(make_settings(), "aemet")
    assert sources.calls_of(OBSERVATIONS_PATH) == []


def test_openweathermap_is_asked_for_metric_units_and_its_wind_is_metres_a_second(
    make_settings: MakeSettings, sources: FakeSources
) -> None:
    [weather] = fetch(make_settings(), "openweathermap")
    assert weather == Weather(
        timestamp=datetime.fromtimestamp(1785060000, UTC),
        station_id="owm-2515271",
        data_source="openweathermap",
        temperature=30.1,
        humidity=26.0,
        pressure=1014.0,
        wind_speed=4.1,
        precipitation=0.0,
    )
    [call] = sources.calls
    assert call.query == {"lat": "38.151", "lon": "-4.989", "appid": OWM_KEY, "units": "metric"}


def test_rain_of_the_last_hour_is_the_precipitation(
    make_settings: MakeSettings, sources: FakeSources
) -> None:
    main, rest = {"temp": 9, "pressure": 1001, "humidity": 97}, {"dt": 1785060000, "id": 1}
    sources.say(OWM_PATH, {"main": main, "wind": {"speed": 2}, "rain": {"1h": 1.7}, **rest})
    [reading] = fetch(make_settings(), "openweathermap")
    assert isinstance(reading, Weather)
    assert reading.precipitation == 1.7


def test_a_source_without_its_key_is_not_enabled(make_settings: MakeSettings) -> None:
    settings = make_settings(aemet_api_key=None, openweathermap_api_key=None)
    made = sources(settings, AsyncClient())
    assert {one.name: one.enabled for one in made} == {"ree": True, "aemet": False, "openweathermap": False}


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_fault_that_passes_is_tried_again(
    make_settings: MakeSettings, sources: FakeSources, status: int
) -> None:
    sources.statuses_before = [status] * (ATTEMPTS - 1)
    assert len(fetch(make_settings(), "ree")) == 24
    assert len(sources.calls) == ATTEMPTS


def test_a_fault_that_stays_is_given_up_on(make_settings: MakeSettings, sources: FakeSources) -> None:
    sources.statuses_before = [503] * 99
    with pytest.raises(SourceFailed, match="HTTP 503"):
        fetch(make_settings(), "ree")
    assert len(sources.calls) == ATTEMPTS


@pytest.mark.parametrize("status", [302, 400, 401, 404])
def test_a_refusal_is_not_tried_again(make_settings: MakeSettings, sources: FakeSources, status: int) -> None:
    sources.say(REE_PATH, {"errors": [{"code": status}]}, status=status)
    with pytest.raises(SourceFailed, match=f"HTTP {status}"):
        fetch(make_settings(), "ree")
    assert len(sources.calls) == 1


@pytest.mark.parametrize(("name", "path"), PATHS)
@pytest.mark.parametrize("body", [b"", b"<html>", b"[3]", b'{"included": []}', b'[{"idema": 3}]'])
def test_an_answer_that_is_not_as_documented_is_a_failure_of_that_source(
    make_settings: MakeSettings, sources: FakeSources, name: str, path: str, body: bytes
) -> None:
    sources.answers[path] = (200, body, "application/json")
    with pytest.raises(SourceFailed):
        fetch(make_settings(), name)


@pytest.mark.parametrize("name", ["ree", "aemet", "openweathermap"])
def test_a_source_that_cannot_be_reached_fails_without_showing_its_key(
    make_settings: MakeSettings, name: str
) -> None:
    gone = "http://127.0.0.1:1"
    settings = make_settings(ree_base_url=gone, aemet_base_url=gone, openweathermap_base_url=gone)
    with pytest.raises(SourceFailed) as caught:
        fetch(settings, name)
    assert str(caught.value) == "ConnectError"
    # A cause would bring the request along, and with it the key.
    assert caught.value.__cause__ is None
