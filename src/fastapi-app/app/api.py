"""The HTTP interface. Every error has the body {"error": <code>, "message": <text>, "details"?: [...]}."""

import platform
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from app.errors import ApplicationError, CrossSite, StoreUnavailable
from app.ingestion import Ingestion, Report
from app.models import ModelFolder, train
from app.readings import Price, Weather, Window
from app.settings import Settings
from app.store import Store

LONGEST_HOURS = 31 * 24
TRAINING_HOURS = 90 * 24


@dataclass(frozen=True)
class Services:
    """What the endpoints work with, made once for an application."""

    settings: Settings
    store: Store
    models: ModelFolder
    ingestion: Ingestion
    clock: Callable[[], datetime]

    def last_hours(self, hours: int) -> Window:
        """`hours` full hours, the last of them the current one."""
        stop = self.clock().replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
        return Window(start=stop - timedelta(hours=hours), stop=stop)


def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


def _refuse_other_sites(request: Request) -> None:
    """Refuse what another site's page has a browser change here: whoever can reach this needs no login.

    Over http a browser names only the origin of a request. Other programs send neither header.
    """
    if request.method in ("GET", "HEAD", "OPTIONS"):
        return
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    own = (
        site in ("same-origin", "none")
        if site
        else not origin or urlsplit(origin).netloc == request.headers["host"]
    )
    if not own:
        raise CrossSite("a page of another site may change nothing here")


Wired = Annotated[Services, Depends(_services)]
Hours = Annotated[int, Query(ge=1, le=LONGEST_HOURS, description="How many hours back, this one included")]

router = APIRouter(dependencies=[Depends(_refuse_other_sites)])


@router.get("/health")
async def health(services: Wired) -> dict[str, str]:
    """Liveness: the process answers. It looks at nothing else, so that no outage elsewhere restarts it."""
    return {
        "status": "healthy",
        "timestamp": services.clock().astimezone(UTC).isoformat(),
        "version": services.settings.app_version,
    }


@router.get("/ready")
def ready(services: Wired, response: Response) -> dict[str, Any]:
    """Readiness: 503 while the store cannot answer, with the reason under `checks`."""
    outcome = "pass"
    try:
        services.store.check()
    except StoreUnavailable as error:
        outcome = f"fail: {error}"
        response.status_code = HTTPStatus.SERVICE_UNAVAILABLE
    return {
        "ready": outcome == "pass",
        "timestamp": services.clock().astimezone(UTC).isoformat(),
        "checks": {services.store.kind: outcome},
    }


@router.get("/version")
async def version(services: Wired) -> dict[str, str]:
    """Which build runs here; a deployment compares release and image_digest with what it sent."""
    settings = services.settings
    return {
        "version": settings.app_version,
        "git_revision": settings.git_revision,
        "image_digest": settings.conche_image_digest,
        "release": settings.conche_release,
        "environment": settings.environment,
        "python_version": platform.python_version(),
    }


@router.get("/prices")
def prices(services: Wired, hours: Hours = 24) -> dict[str, int | list[Price]]:
    """PVPC prices in EUR/MWh, oldest first."""
    found = services.store.prices(services.last_hours(hours))
    return {"hours": hours, "count": len(found), "prices": found}


@router.get("/weather")
def weather(services: Wired, hours: Hours = 24) -> dict[str, int | list[Weather]]:
    """Observations in degrees Celsius, %, hPa, m/s and mm, oldest first."""
    found = services.store.weather(services.last_hours(hours))
    return {"hours": hours, "count": len(found), "weather": found}


@router.get("/models")
def models(services: Wired) -> dict[str, Any]:
    """The model registry; {} before the first training."""
    return services.models.registry()


@router.post("/models/train", status_code=HTTPStatus.CREATED)
def train_model(services: Wired) -> dict[str, Any]:
    """Train on the stored prices of the last 90 days; 409 when they are too few."""
    known = services.store.prices(services.last_hours(TRAINING_HOURS))
    model, metrics = train(known)
    return {"type": model.type, **services.models.keep(model, metrics)}


@router.post("/ingest/run")
async def ingest(services: Wired, response: Response) -> Report:
    """Fetch from every source now. 200 also when some failed (see `errors`), 502 when nothing came at all."""
    report = await services.ingestion.run()
    if report.failed:
        response.status_code = HTTPStatus.BAD_GATEWAY
    return report


def install_error_answers(app: FastAPI) -> None:
    """Give every error its JSON body; the only place where errors become status codes."""

    @app.exception_handler(ApplicationError)
    def designed(request: Request, error: ApplicationError) -> JSONResponse:
        return _answer(error.status, error.code, str(error))

    @app.exception_handler(HTTPException)
    def standard(request: Request, error: HTTPException) -> JSONResponse:
        code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "-")
        return _answer(error.status_code, code, str(error.detail), headers=error.headers)

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        details = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]
        return _answer(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid-request", "; ".join(details), details)

    @app.exception_handler(Exception)
    def unforeseen(request: Request, error: Exception) -> JSONResponse:
        # The trace is in the log; a client has no use for it.
        return _answer(HTTPStatus.INTERNAL_SERVER_ERROR, "internal", "the application failed; see its log")


def _answer(
    status: int,
    code: str,
    message: str,
    details: list[str] | None = None,
    headers: Any = None,  # noqa: ANN401
) -> JSONResponse:
    body: dict[str, Any] = {"error": code, "message": message}
    if details:
        body["details"] = details
    return JSONResponse(body, status_code=status, headers=headers)
