import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2 as httpx
import pytest
from fake_influx import BUCKET, ORG, READER, WRITER, FakeInflux, running_influx
from fake_sources import AEMET_KEY, OWM_KEY, FakeSources, running_sources
from pydantic import SecretStr

from app.readings import Window
from app.settings import Settings
from app.store.influx import InfluxStore

# A Sunday, 12:30 in Spain, inside the day that the fake REE tells of.
NOW = datetime(2026, 7, 26, 10, 30, tzinfo=UTC)

# Where the tests of the stores write: on a real server nothing else should live there.
START = datetime(2024, 1, 1, tzinfo=UTC)
TEN_DAYS = Window(start=START, stop=START + timedelta(days=10))

MakeSettings = Callable[..., Settings]


@pytest.fixture
def sources() -> Iterator[FakeSources]:
    with running_sources() as running:
        yield running


@pytest.fixture
def influx() -> Iterator[FakeInflux]:
    with running_influx() as running:
        yield running


@dataclass(frozen=True)
class InfluxServer:
    """An InfluxDB to test against: the fake, or the real one that the environment names (see README)."""

    url: str
    org: str = ORG
    bucket: str = BUCKET
    writer: str = WRITER
    reader: str = READER

    def store(self, token: str | None = None, bucket: str | None = None) -> InfluxStore:
        """A store that may write, unless told another token."""
        return InfluxStore(self.url, self.org, bucket or self.bucket, SecretStr(token or self.writer))

    def forget(self, window: Window) -> None:
        """Delete what earlier runs wrote to a real server."""
        httpx.post(
            f"{self.url}/api/v2/delete",
            params={"org": self.org, "bucket": self.bucket},
            headers={"Authorization": f"Token {self.writer}"},
            json={"start": window.start.isoformat(), "stop": window.stop.isoformat()},
        ).raise_for_status()


@pytest.fixture
def influx_server() -> Iterator[InfluxServer]:
    url = os.environ.get("INFLUXDB_TEST_URL")
    if not url:
        with running_influx() as running:
            yield InfluxServer(running.url)
        return
    real = InfluxServer(
        url,
        os.environ.get("INFLUXDB_TEST_ORG", ORG),
        os.environ.get("INFLUXDB_TEST_BUCKET", BUCKET),
        os.environ["INFLUXDB_TEST_TOKEN"],
        os.environ["INFLUXDB_TEST_READ_TOKEN"],
    )
    real.forget(TEN_DAYS)
    yield real


@pytest.fixture
def make_settings(tmp_path: Path, sources: FakeSources) -> MakeSettings:
    """Settings that reach nothing outside the test, with the given fields changed."""

    def make(**changes: object) -> Settings:
        return Settings.model_validate(
            {
                "store_path": tmp_path / "store.sqlite3",
                "models_dir": tmp_path / "models",
                "ree_base_url": sources.url,
                "aemet_base_url": sources.url,
                "openweathermap_base_url": sources.url,
                "aemet_api_key": AEMET_KEY,
                "openweathermap_api_key": OWM_KEY,
                "ingestion_interval_minutes": 0,
                **changes,
            }
        )

    return make
