"""Where readings are kept. One small interface, two implementations, one contract (tests/test_store.py)."""

from collections.abc import Sequence
from typing import Protocol

from app.errors import StoreUnavailable
from app.readings import Price, Weather, Window
from app.settings import Settings


class Store(Protocol):
    """Keeps readings. Safe to call from several threads; every method may raise StoreUnavailable."""

    @property
    def kind(self) -> str:
        """One word for the log and GET /ready."""
        ...

    def check(self) -> None:
        """Return when the store can answer; raise StoreUnavailable saying why when it cannot."""
        ...

    def write(self, readings: Sequence[Price | Weather]) -> None:
        """Keep the readings. Writing one again replaces it: same time and same source, one reading."""
        ...

    def prices(self, window: Window) -> list[Price]:
        """The prices in the window, oldest first."""
        ...

    def weather(self, window: Window) -> list[Weather]:
        """The observations in the window, oldest first."""
        ...

    def close(self) -> None:
        """Give connections back. Calling it twice does nothing the second time."""
        ...


def open_store(settings: Settings) -> Store:
    """The store these settings ask for; raises ConfigurationError for a token that may do too much.

    An InfluxDB that cannot be reached is no fault here: GET /ready says so until it can.
    """
    if settings.influxdb_url is None or settings.influxdb_token is None:
        from app.store.sample import SampleStore
        from app.store.sqlite import SqliteStore

        return SampleStore(SqliteStore(settings.store_path))
    from app.store.influx import InfluxStore, ReadOnlyInfluxStore

    store = InfluxStore(
        settings.influxdb_url, settings.influxdb_org, settings.influxdb_bucket, settings.influxdb_token
    )
    return ReadOnlyInfluxStore.guarding(store) if settings.development else store


__all__ = ["Store", "StoreUnavailable", "open_store"]
