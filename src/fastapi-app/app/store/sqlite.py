"""The embedded store: one SQLite file, for a first start without InfluxDB."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from app.errors import StoreUnavailable
from app.readings import WEATHER_FIELDS, Price, Weather, Window

# Times are stored as text of one width in UTC, so that their order as text is their order in time.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS price (
    timestamp TEXT NOT NULL, provider TEXT NOT NULL, price_eur_mwh REAL NOT NULL,
    PRIMARY KEY (timestamp, provider)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS weather (
    timestamp TEXT NOT NULL, station_id TEXT NOT NULL, data_source TEXT NOT NULL,
    temperature REAL, humidity REAL, pressure REAL, wind_speed REAL, precipitation REAL,
    PRIMARY KEY (timestamp, station_id, data_source)
) WITHOUT ROWID;
"""
_PRICE_COLUMNS = ("timestamp", "provider", "price_eur_mwh")
_WEATHER_COLUMNS = ("timestamp", "station_id", "data_source", *WEATHER_FIELDS)


class SqliteStore:
    """A Store in one file, made at the first use. Each call has its own connection: threads need no care."""

    kind = "sqlite"

    def __init__(self, path: Path) -> None:
        self._path = path

    def check(self) -> None:
        with self._connection() as connection:
            connection.execute("SELECT 1 FROM price LIMIT 1")

    def write(self, readings: Sequence[Price | Weather]) -> None:
        prices = [_row(reading, _PRICE_COLUMNS) for reading in readings if isinstance(reading, Price)]
        weather = [_row(reading, _WEATHER_COLUMNS) for reading in readings if isinstance(reading, Weather)]
        with self._connection() as connection:
            connection.executemany("INSERT OR REPLACE INTO price VALUES (?, ?, ?)", prices)
            connection.executemany("INSERT OR REPLACE INTO weather VALUES (?, ?, ?, ?, ?, ?, ?, ?)", weather)

    def prices(self, window: Window) -> list[Price]:
        query = "SELECT * FROM price WHERE timestamp >= ? AND timestamp < ? ORDER BY timestamp"
        return [Price.model_validate(row) for row in self._rows(query, window)]

    def weather(self, window: Window) -> list[Weather]:
        query = "SELECT * FROM weather WHERE timestamp >= ? AND timestamp < ? ORDER BY timestamp"
        return [Weather.model_validate(row) for row in self._rows(query, window)]

    def close(self) -> None:
        """Nothing to give back."""

    def _rows(self, query: str, window: Window) -> list[dict[str, object]]:
        with self._connection() as connection:
            rows = connection.execute(query, (_text(window.start), _text(window.stop))).fetchall()
        return [dict(row) for row in rows]

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self._path, timeout=10)) as connection:
                connection.row_factory = sqlite3.Row
                connection.executescript(_SCHEMA)
                with connection:
                    yield connection
        except sqlite3.Error as error:
            raise StoreUnavailable(f"SQLite file {self._path}: {error}") from error


def _row(reading: Price | Weather, columns: Sequence[str]) -> list[object]:
    values = dict(reading)
    return [_text(reading.timestamp), *(values[column] for column in columns[1:])]


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds")
