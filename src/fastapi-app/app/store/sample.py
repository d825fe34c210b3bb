"""A plausible week, so that a first start without InfluxDB has something to show."""

import csv
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property
from importlib.resources import files

from app.readings import WEATHER_FIELDS, Price, Weather, Window
from app.store import Store

PROVIDER = "sample"


class SampleStore:
    """A Store that answers from the bundled week while the one inside has nothing in the window.

    The week repeats, so an hour always has the same reading, Mondays look like Mondays, and the last reading
    is never older than the current hour. Every made-up reading says so: its source is "sample".
    """

    def __init__(self, inner: Store) -> None:
        self._inner = inner

    @property
    def kind(self) -> str:
        return self._inner.kind

    def check(self) -> None:
        self._inner.check()

    def write(self, readings: Sequence[Price | Weather]) -> None:
        self._inner.write(readings)

    def prices(self, window: Window) -> list[Price]:
        return self._inner.prices(window) or [
            Price(timestamp=hour, provider=PROVIDER, price_eur_mwh=row["price_eur_mwh"])
            for hour, row in self._sampled(window)
        ]

    def weather(self, window: Window) -> list[Weather]:
        return self._inner.weather(window) or [
            Weather(
                timestamp=hour,
                station_id=PROVIDER,
                data_source=PROVIDER,
                **{field: row[field] for field in WEATHER_FIELDS},
            )
            for hour, row in self._sampled(window)
        ]

    def close(self) -> None:
        self._inner.close()

    def _sampled(self, window: Window) -> Iterator[tuple[datetime, dict[str, float]]]:
        hour = _next_full_hour(window.start)
        while hour < window.stop:
            yield hour, self._week[hour.weekday() * 24 + hour.hour]
            hour += timedelta(hours=1)

    @cached_property
    def _week(self) -> list[dict[str, float]]:
        """Readings by hour of the week; hour 0 is Monday 00:00 UTC."""
        with files("app.sample").joinpath("week.csv").open(encoding="utf-8") as lines:
            return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(lines)]


def _next_full_hour(moment: datetime) -> datetime:
    floor = moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    return floor if floor == moment else floor + timedelta(hours=1)
