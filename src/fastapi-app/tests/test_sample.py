from datetime import timedelta
from pathlib import Path

from conftest import NOW

from app.readings import Price, Window
from app.store.sample import SampleStore
from app.store.sqlite import SqliteStore

HOUR = NOW.replace(minute=0)
LAST_DAY = Window(start=HOUR - timedelta(hours=23), stop=HOUR + timedelta(hours=1))


def test_an_empty_store_shows_every_hour_up_to_the_current_one(tmp_path: Path) -> None:
    store = SampleStore(SqliteStore(tmp_path / "store.sqlite3"))
    expected = [LAST_DAY.start + timedelta(hours=hour) for hour in range(24)]
    assert [price.timestamp for price in store.prices(LAST_DAY)] == expected
    assert [one.timestamp for one in store.weather(LAST_DAY)] == expected


def test_made_up_readings_say_so_and_are_plausible(tmp_path: Path) -> None:
    store = SampleStore(SqliteStore(tmp_path / "store.sqlite3"))
    week = Window(start=HOUR - timedelta(days=7), stop=HOUR)
    prices, weather = store.prices(week), store.weather(week)
    assert {price.provider for price in prices} == {one.data_source for one in weather} == {"sample"}
    assert all(20 < price.price_eur_mwh < 250 for price in prices)
    assert all(one.wind_speed is not None and 0 <= one.wind_speed < 20 for one in weather)


def test_an_hour_keeps_its_sample_as_time_goes_on(tmp_path: Path) -> None:
    store = SampleStore(SqliteStore(tmp_path / "store.sqlite3"))
    later = Window(start=LAST_DAY.start + timedelta(minutes=90), stop=LAST_DAY.stop + timedelta(hours=5))
    now, afterwards = store.prices(LAST_DAY), store.prices(later)
    assert afterwards[:-5] == now[2:]


def test_the_sample_steps_back_as_soon_as_there_is_a_real_reading(tmp_path: Path) -> None:
    store = SampleStore(SqliteStore(tmp_path / "store.sqlite3"))
    real = Price(timestamp=HOUR, price_eur_mwh=99.0, provider="ree")
    store.write([real])
    assert store.prices(LAST_DAY) == [real]
