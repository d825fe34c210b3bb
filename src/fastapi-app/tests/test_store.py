"""The contract of Store, kept by the embedded store and by InfluxDB (the fake, or a real one; see README)."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from conftest import START, TEN_DAYS, InfluxServer
from fake_influx import running_influx

from app.errors import StoreUnavailable
from app.readings import Price, Weather, Window
from app.store import Store
from app.store.sample import SampleStore
from app.store.sqlite import SqliteStore


def price(hour: int, value: float = 80.5, provider: str = "ree") -> Price:
    return Price(timestamp=START + timedelta(hours=hour), price_eur_mwh=value, provider=provider)


def observation(hour: int, **changes: object) -> Weather:
    fields = {"timestamp": START + timedelta(hours=hour), "station_id": "5279X", "data_source": "aemet"}
    return Weather.model_validate({**fields, "temperature": 12.5, "wind_speed": 3.2, **changes})


@pytest.fixture(params=["sqlite", "sample", "influxdb"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    embedded = SqliteStore(tmp_path / "store.sqlite3")
    made: Store = embedded
    if request.param == "sample":
        made = SampleStore(embedded)
    elif request.param == "influxdb":
        server: InfluxServer = request.getfixturevalue("influx_server")
        made = server.store()
    yield made
    made.close()


def test_what_was_written_is_read_back_equal(store: Store) -> None:
    prices = [price(0, 80.5), price(1, -3.25), price(2, 0.0)]
    weather = [observation(0, humidity=55.0, pressure=1013.2, precipitation=0.0)]
    store.write([*prices, *weather])
    assert store.prices(TEN_DAYS) == prices
    assert store.weather(TEN_DAYS) == weather


def test_readings_come_oldest_first_whatever_the_order_of_writing(store: Store) -> None:
    store.write([price(5), price(1), price(3)])
    assert store.prices(TEN_DAYS) == [price(1), price(3), price(5)]


def test_a_window_includes_its_start_and_excludes_its_stop(store: Store) -> None:
    store.write([price(hour) for hour in range(5)])
    window = Window(start=START + timedelta(hours=1), stop=START + timedelta(hours=3))
    assert store.prices(window) == [price(1), price(2)]


def test_writing_a_reading_again_replaces_it(store: Store) -> None:
    store.write([price(0, 10.0)])
    store.write([price(0, 20.0)])
    assert store.prices(TEN_DAYS) == [price(0, 20.0)]


def test_readings_of_one_hour_from_two_sources_are_both_kept(store: Store) -> None:
    aemet = observation(0)
    other = observation(0, data_source="openweathermap", station_id="owm-1")
    store.write([aemet, other])
    assert sorted(store.weather(TEN_DAYS), key=lambda one: one.data_source) == [aemet, other]


def test_what_a_station_did_not_measure_stays_unmeasured(store: Store) -> None:
    store.write([observation(0), observation(1, pressure=1013.0)])
    assert [one.pressure for one in store.weather(TEN_DAYS)] == [None, 1013.0]


def test_writing_nothing_is_no_error_and_changes_nothing(store: Store) -> None:
    store.write([price(0)])
    store.write([])
    assert store.prices(TEN_DAYS) == [price(0)]


def test_a_store_that_can_answer_passes_its_check_with_or_without_readings(store: Store) -> None:
    store.check()
    store.write([price(0)])
    store.check()
    assert store.prices(TEN_DAYS) == [price(0)]


@pytest.mark.parametrize("kind", ["sqlite", "influxdb"])
def test_a_store_that_cannot_be_reached_says_so_in_every_call(kind: str, tmp_path: Path) -> None:
    store: Store
    if kind == "sqlite":
        store = SqliteStore(tmp_path / "no such folder" / "store.sqlite3")
    else:
        with running_influx() as influx:
            gone = InfluxServer(influx.url)
        store = gone.store()
    with pytest.raises(StoreUnavailable):
        store.check()
    with pytest.raises(StoreUnavailable):
        store.write([price(0)])
    with pytest.raises(StoreUnavailable):
        store.prices(TEN_DAYS)
    with pytest.raises(StoreUnavailable):
        store.weather(TEN_DAYS)
    store.close()
    store.close()
