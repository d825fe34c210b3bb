"""The application, put together: settings, store, sources, endpoints."""

import asyncio
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import httpx2 as httpx
from fastapi import FastAPI
from tenacity.wait import wait_base

from app.api import Services, install_error_answers, router
from app.errors import ConfigurationError
from app.ingestion import Ingestion, keep_ingesting
from app.logs import configure_logging, redact
from app.models import ModelFolder
from app.secret_files import SECRETS_DIR
from app.settings import Settings, load_settings
from app.sources import BACKOFF, TIMEOUT, sources
from app.store import open_store

log = logging.getLogger(__name__)

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    return datetime.now(UTC)


def create_app() -> FastAPI:
    """The application of this process's environment: the factory that uvicorn is given.

    A faulty configuration ends the process with one line on stderr and exit code 78.
    """
    try:
        return build_app(read_environment(os.environ))
    except ConfigurationError as error:
        print(f"configuration error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None


def read_environment(environ: Mapping[str, str]) -> Settings:
    """The settings, with the log set up for them. SECRETS_DIR stands in for /run/secrets."""
    configure_logging(environ.get("ENVIRONMENT", ""), environ.get("LOG_LEVEL") or "INFO")
    settings = load_settings(environ, Path(environ.get("SECRETS_DIR") or SECRETS_DIR))
    redact(settings.secrets)
    return settings


def build_app(settings: Settings, *, clock: Clock = utc_now, wait: wait_base = BACKOFF) -> FastAPI:
    """The application of these settings; raises ConfigurationError for a token that may do too much."""
    client = httpx.AsyncClient(timeout=TIMEOUT)
    store = open_store(settings)
    ingestion = Ingestion(sources(settings, client, wait), store, clock, settings.ingestion_enabled)
    services = Services(settings, store, ModelFolder(settings.models_dir, clock), ingestion, clock)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            stack.callback(store.close)
            await stack.enter_async_context(client)
            if settings.ingestion_enabled and settings.ingestion_interval_minutes:
                await stack.enter_async_context(
                    _running(keep_ingesting(ingestion, settings.ingestion_interval_minutes))
                )
            _say_started(services)
            yield

    app = FastAPI(
        title="Chocolate factory",
        version=settings.app_version,
        lifespan=lifespan,
        docs_url="/docs" if settings.development else None,
        redoc_url=None,
        openapi_url="/openapi.json" if settings.development else None,
    )
    app.state.services = services
    app.include_router(router)
    install_error_answers(app)
    return app


@asynccontextmanager
async def _running(work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def _say_started(services: Services) -> None:
    settings = services.settings
    fields = {
        "version": settings.app_version,
        "git_revision": settings.git_revision,
        "environment": settings.environment,
        "store": services.store.kind,
        "ingestion": settings.ingestion_enabled,
    }
    log.info("startup complete", extra={"fields": fields})
