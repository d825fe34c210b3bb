import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import pytest
from conftest import NOW

from app.errors import IngestionOff, SourceFailed, StoreUnavailable
from app.ingestion import Ingestion, Report, keep_ingesting
from app.readings import Price, Weather, Window
from app.sources import Source
from app.store.sqlite import SqliteStore

PRICE = Price(timestamp=NOW, price_eur_mwh=80.0, provider="ree")
WEATHER = Weather(timestamp=NOW, station_id="5279X", data_source="aemet", temperature=30.0)
ALL = Window(start=NOW.replace(year=2025), stop=NOW.replace(year=2027))


@dataclass
class Scripted:
    """A source that gives what it is told to, or fails as it is told to."""

    name: str
    readings: Sequence[Price | Weather] = ()
    failure: Exception | None = None
    enabled: bool = True
    together: list[str] = field(default_factory=list)

    async def fetch(self, now: datetime) -> Sequence[Price | Weather]:
        self.together.append("in")
        await asyncio.sleep(0)
        self.together.append("out")
        if self.failure:
            raise self.failure
        return self.readings


def ingestion_of(*sources: Source, folder: Path, enabled: bool = True) -> tuple[Ingestion, SqliteStore]:
    store = SqliteStore(folder / "store.sqlite3")
    return Ingestion(sources, store, lambda: NOW, enabled), store


def test_everything_fetched_is_written_and_counted(tmp_path: Path) -> None:
    ingestion, store = ingestion_of(
        Scripted("ree", [PRICE]),
        Scripted("aemet", [WEATHER]),
        Scripted("other", enabled=False),
        folder=tmp_path,
    )
    assert asyncio.run(ingestion.run()) == Report(written={"ree": 1, "aemet": 1}, skipped=["other"])
    assert store.prices(ALL) == [PRICE]
    assert store.weather(ALL) == [WEATHER]


@pytest.mark.parametrize("failing_first", [True, False])
def test_one_failing_source_does_not_lose_the_others(tmp_path: Path, failing_first: bool) -> None:
    scripted = [Scripted("ree", failure=SourceFailed("HTTP 503")), Scripted("aemet", [WEATHER])]
    ingestion, store = ingestion_of(*(scripted if failing_first else scripted[::-1]), folder=tmp_path)
    report = asyncio.run(ingestion.run())
    assert report == Report(written={"aemet": 1}, errors={"ree": "HTTP 503"})
    assert not report.failed
    assert store.weather(ALL) == [WEATHER]


def test_nothing_from_anywhere_is_a_failed_run(tmp_path: Path) -> None:
    ingestion, _ = ingestion_of(
        Scripted("ree", failure=SourceFailed("HTTP 503")), Scripted("aemet", enabled=False), folder=tmp_path
    )
    assert asyncio.run(ingestion.run()).failed


def test_ingestion_that_is_off_asks_no_source(tmp_path: Path) -> None:
    source = Scripted("ree", [PRICE])
    ingestion, store = ingestion_of(source, folder=tmp_path, enabled=False)
    with pytest.raises(IngestionOff):
        asyncio.run(ingestion.run())
    assert source.together == []
    assert store.prices(ALL) == []


def test_a_store_that_is_gone_fails_the_run(tmp_path: Path) -> None:
    ingestion, _ = ingestion_of(Scripted("ree", [PRICE]), folder=tmp_path / "no such folder")
    with pytest.raises(StoreUnavailable):
        asyncio.run(ingestion.run())


def test_two_runs_at_once_take_turns(tmp_path: Path) -> None:
    source = Scripted("ree", [PRICE])
    ingestion, _ = ingestion_of(source, folder=tmp_path)

    async def both() -> None:
        await asyncio.gather(ingestion.run(), ingestion.run())

    asyncio.run(both())
    assert source.together == ["in", "out", "in", "out"]


@pytest.mark.parametrize("failure", [StoreUnavailable("gone"), RuntimeError("a bug")])
def test_the_schedule_outlives_a_failed_run_and_logs_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, failure: Exception
) -> None:
    source = Scripted("ree", [PRICE], failure=failure)
    ingestion, store = ingestion_of(source, folder=tmp_path)
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        source.failure = None
        if len(pauses) == 2:
            raise asyncio.CancelledError

    async def scheduled() -> None:
        with pytest.raises(asyncio.CancelledError):
            await keep_ingesting(ingestion, minutes=60, pause=pause)

    asyncio.run(scheduled())
    assert pauses == [5, 3600]
    assert store.prices(ALL) == [PRICE]
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR] == [
        "ingestion failed"
    ]


@pytest.mark.parametrize(
    ("minutes", "pauses"), [(60, [5, 10, 20, 40, 3600, 5]), (0.5, [5, 10, 20, 30, 30, 5])]
)
def test_a_database_that_is_away_at_the_start_is_looked_for_again_within_seconds(
    tmp_path: Path, minutes: float, pauses: list[float]
) -> None:
    source = Scripted("ree", [PRICE], failure=StoreUnavailable("not there yet"))
    ingestion, _ = ingestion_of(source, folder=tmp_path)
    waited: list[float] = []

    async def pause(seconds: float) -> None:
        waited.append(seconds)
        source.failure = (
            None
            if len(waited) == 4
            else StoreUnavailable("gone again")
            if len(waited) > 4
            else source.failure
        )
        if len(waited) == len(pauses):
            raise asyncio.CancelledError

    async def scheduled() -> None:
        with pytest.raises(asyncio.CancelledError):
            await keep_ingesting(ingestion, minutes=minutes, pause=pause)

    asyncio.run(scheduled())
    assert waited == pauses
