"""InfluxDB 2.7 as the store: measurements `energy_prices` and `weather_data` of one bucket."""

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import httpx2 as httpx
from influxdb_client import InfluxDBClient  # type: ignore[attr-defined]
from influxdb_client.client.write_api import SYNCHRONOUS
from influxdb_client.rest import ApiException
from pydantic import SecretStr
from urllib3.exceptions import HTTPError

from app.errors import ConfigurationError, StoreUnavailable
from app.readings import WEATHER_FIELDS, Price, Weather, Window

PRICES = "energy_prices"
WEATHER = "weather_data"
TIMEOUT_SECONDS = 5.0

log = logging.getLogger(__name__)


class InfluxStore:
    """A Store in one bucket of an InfluxDB 2 server. No connection is made before the first call."""

    kind = "influxdb"

    def __init__(self, url: str, org: str, bucket: str, token: SecretStr) -> None:
        self._url, self._org, self._bucket, self._token = url, org, bucket, token
        self._client = InfluxDBClient(
            url=url, token=token.get_secret_value(), org=org, timeout=int(TIMEOUT_SECONDS * 1000)
        )
        self._writer = self._client.write_api(write_options=SYNCHRONOUS)

    def check(self) -> None:
        # A ping needs no token, so it alone would call a store ready whose every read is refused.
        if not self._client.ping():
            raise StoreUnavailable(f"InfluxDB at {self._url} does not answer a ping")
        now = datetime.now(UTC)
        self.prices(Window(start=now - timedelta(minutes=1), stop=now))

    def write(self, readings: Sequence[Price | Weather]) -> None:
        if not readings:
            return
        with self._translated():
            self._writer.write(bucket=self._bucket, record=[_record(reading) for reading in readings])

    def prices(self, window: Window) -> list[Price]:
        rows = self._rows(PRICES, ("provider",), ("price_eur_mwh",), window)
        return [Price.model_validate(row) for row in rows]

    def weather(self, window: Window) -> list[Weather]:
        rows = self._rows(WEATHER, ("data_source", "station_id"), WEATHER_FIELDS, window)
        return [Weather.model_validate(row) for row in rows]

    def can_write(self) -> bool:
        """Whether the token may write, asked without writing: an empty body is refused only after the token.

        Raises StoreUnavailable when the answer tells neither.
        """
        try:
            answer = httpx.post(
                f"{self._url}/api/v2/write",
                params={"org": self._org, "bucket": self._bucket},
                headers={"Authorization": f"Token {self._token.get_secret_value()}"},
                timeout=TIMEOUT_SECONDS,
            )
        except httpx.HTTPError as error:
            raise StoreUnavailable(f"InfluxDB at {self._url}: {type(error).__name__}") from error
        if answer.status_code == httpx.codes.FORBIDDEN:
            return False
        if answer.status_code == httpx.codes.BAD_REQUEST or answer.is_success:
            return True
        raise StoreUnavailable(f"InfluxDB at {self._url} answered {answer.status_code} to an empty write")

    def close(self) -> None:
        self._client.close()  # type: ignore[no-untyped-call]

    def _rows(
        self, measurement: str, tags: Sequence[str], fields: Sequence[str], window: Window
    ) -> list[dict[str, object]]:
        flux = _flux(self._bucket, measurement, tags, fields, window)
        with self._translated():
            tables = self._client.query_api().query(flux)
        rows = [record.values for table in tables for record in table.records]
        return [{**row, "timestamp": row["_time"]} for row in rows]

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except ApiException as error:
            reason = f"answered {error.status} {error.reason}"
            raise StoreUnavailable(f"InfluxDB at {self._url} {reason}") from error
        except HTTPError as error:
            raise StoreUnavailable(f"InfluxDB at {self._url}: {type(error).__name__}") from error


class ReadOnlyInfluxStore:
    """InfluxDB as development uses it: never written to, not ready before its token is proven read-only."""

    kind = "influxdb (read-only)"

    def __init__(self, inner: InfluxStore) -> None:
        self._inner = inner
        self._proven = False

    @classmethod
    def guarding(cls, inner: InfluxStore) -> "ReadOnlyInfluxStore":
        """Guard a store; raises ConfigurationError at once when the server says that its token can write."""
        store = cls(inner)
        try:
            store.prove()
        except StoreUnavailable as error:
            log.warning("The token is not proven read-only yet: %s", error)
        return store

    def prove(self) -> None:
        """Raise ConfigurationError for a token that can write, StoreUnavailable while that cannot be told."""
        if self._inner.can_write():
            raise ConfigurationError(
                "INFLUXDB_TOKEN can write: development reads production's InfluxDB, with a read-only token"
                " (influx auth create --read-bucket <bucket id>)"
            )
        self._proven = True

    def check(self) -> None:
        if not self._proven:
            try:
                self.prove()
            except ConfigurationError as error:
                raise StoreUnavailable(str(error)) from error
        self._inner.check()

    def write(self, readings: Sequence[Price | Weather]) -> None:
        raise StoreUnavailable(f"development may not write: {len(readings)} readings refused")

    def prices(self, window: Window) -> list[Price]:
        return self._inner.prices(window)

    def weather(self, window: Window) -> list[Weather]:
        return self._inner.weather(window)

    def close(self) -> None:
        self._inner.close()


def _record(reading: Price | Weather) -> dict[str, object]:
    """The reading as the client's dictionary form of a point; fields that were not measured are left out."""
    if isinstance(reading, Price):
        measurement, tags = PRICES, {"provider": reading.provider, "market_type": "pvpc"}
        price = reading.price_eur_mwh
        fields: dict[str, float | None] = {"price_eur_mwh": price, "price_eur_kwh": price / 1000}
    else:
        measurement = WEATHER
        tags = {"station_id": reading.station_id, "data_source": reading.data_source}
        fields = {name: getattr(reading, name) for name in WEATHER_FIELDS}
    return {"measurement": measurement, "tags": tags, "fields": fields, "time": reading.timestamp}


def _flux(bucket: str, measurement: str, tags: Sequence[str], fields: Sequence[str], window: Window) -> str:
    """One row for each time and tag set. Only the named fields: Flux refuses to group floats with strings."""
    wanted = " or ".join(f'r._field == "{field}"' for field in fields)
    key = json.dumps(["_time", *tags])
    return f"""from(bucket: {json.dumps(bucket)})
  |> range(start: {_rfc3339(window.start)}, stop: {_rfc3339(window.stop)})
  |> filter(fn: (r) => r._measurement == "{measurement}" and ({wanted}))
  |> group()
  |> pivot(rowKey: {key}, columnKey: ["_field"], valueColumn: "_value")
  |> sort(columns: {key})"""


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
