"""Fetch from every source and keep what came, on request and on a schedule."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime

from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel

from app.errors import ApplicationError, IngestionOff, SourceFailed
from app.sources import Source
from app.store import Store

log = logging.getLogger(__name__)


class Report(BaseModel):
    """What one ingestion did: readings written by source, reasons by failed source, sources without a key."""

    written: dict[str, int] = {}
    errors: dict[str, str] = {}
    skipped: list[str] = []

    @property
    def failed(self) -> bool:
        """Whether nothing came from anywhere."""
        return not self.written


class Ingestion:
    """Asks the sources one run at a time; what one source gives is kept whatever becomes of the others."""

    def __init__(
        self, sources: Sequence[Source], store: Store, clock: Callable[[], datetime], enabled: bool
    ) -> None:
        self._sources, self._store, self._clock = sources, store, clock
        self.enabled = enabled
        self._turn = asyncio.Lock()

    async def run(self) -> Report:
        """Fetch and write once. Raises IngestionOff, or StoreUnavailable when nothing can be kept."""
        if not self.enabled:
            raise IngestionOff("ingestion is off here: INGESTION_ENABLED is false")
        async with self._turn:
            report = Report()
            takes = (self._take(source, report) for source in self._sources)
            # Waits for all of them also when one fails: the turn must not end before the last write.
            outcomes = await asyncio.gather(*takes, return_exceptions=True)
            for failure in filter(None, outcomes):
                raise failure
        level = logging.WARNING if report.errors else logging.INFO
        log.log(level, "ingestion finished", extra={"fields": report.model_dump()})
        return report

    async def _take(self, source: Source, report: Report) -> None:
        if not source.enabled:
            report.skipped.append(source.name)
            return
        try:
            readings = await source.fetch(self._clock())
        except SourceFailed as error:
            report.errors[source.name] = str(error)
            return
        await run_in_threadpool(self._store.write, readings)
        report.written[source.name] = len(readings)


FIRST_AGAIN = 5.0
"""Seconds after which a failed run is tried again; twice as many after each further one."""


async def keep_ingesting(
    ingestion: Ingestion, minutes: float, pause: Callable[[float], Awaitable[object]] = asyncio.sleep
) -> None:
    """Run now and then every `minutes` until cancelled; a failed run is logged and soon tried again.

    After a reboot of the host the application may be there before its database.
    """
    again = FIRST_AGAIN
    while True:
        wait = minutes * 60
        try:
            await ingestion.run()
            again = FIRST_AGAIN
        except Exception as error:
            if isinstance(error, ApplicationError):
                log.error("ingestion failed", extra={"fields": {"reason": str(error)}})
            else:
                log.exception("ingestion failed")
            wait, again = min(again, wait), again * 2
        await pause(wait)
