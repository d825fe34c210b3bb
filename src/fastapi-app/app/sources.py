"""The public APIs: REE's prices, AEMET's and OpenWeatherMap's weather."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol, TypeVar
from zoneinfo import ZoneInfo

import httpx2 as httpx
from pydantic import BaseModel, SecretStr, ValidationError
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter
from tenacity.wait import wait_base

from app.errors import SourceFailed
from app.payloads import AemetAnswer, AemetTicket, OpenWeatherMapAnswer, ReeAnswer
from app.readings import Price, Weather
from app.settings import Settings

MADRID = ZoneInfo("Europe/Madrid")
BACKOFF = wait_exponential_jitter(initial=1, max=20)
ATTEMPTS = 3
TIMEOUT = httpx.Timeout(10.0, connect=5.0)
AEMET_ENCODING = "iso-8859-15"

Parameters = Mapping[str, str | float]
Answer = TypeVar("Answer", bound=BaseModel)


class Source(Protocol):
    """One API that readings are fetched from."""

    @property
    def name(self) -> str: ...

    @property
    def enabled(self) -> bool:
        """False while its key is missing: then it is skipped, which is no failure."""
        ...

    async def fetch(self, now: datetime) -> Sequence[Price | Weather]:
        """The latest readings; raises SourceFailed with a reason that never holds a key."""
        ...


class _Busy(Exception):
    """An answer that a later attempt may better."""


class Fetcher:
    """GET with up to three attempts for the faults that pass: no connection, 429 and 5xx."""

    def __init__(self, client: httpx.AsyncClient, wait: wait_base = BACKOFF) -> None:
        self._client = client
        self._retrying = AsyncRetrying(
            stop=stop_after_attempt(ATTEMPTS),
            wait=wait,
            retry=retry_if_exception_type((httpx.TransportError, _Busy)),
            reraise=True,
        )

    async def get(
        self,
        answer: type[Answer],
        url: str,
        *,
        params: Parameters | None = None,
        headers: Mapping[str, str] | None = None,
        encoding: str = "utf-8",
    ) -> Answer:
        """The JSON body as `answer`; `encoding` counts where the server names none. Raises SourceFailed."""
        try:
            response: httpx.Response = await self._retrying(self._get, url, params, headers)
        except _Busy as error:
            raise SourceFailed(str(error)) from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            # Neither the error's own text nor the error as cause: both may hold the URL, and that a key.
            raise SourceFailed(type(error).__name__) from None
        response.default_encoding = encoding
        try:
            return answer.model_validate_json(response.text)
        except ValidationError as error:
            raise SourceFailed(f"the answer is not as documented: {_first_fault(error)}") from None

    async def _get(
        self, url: str, params: Parameters | None, headers: Mapping[str, str] | None
    ) -> httpx.Response:
        response = await self._client.get(url, params=params, headers=headers)
        if response.status_code == httpx.codes.TOO_MANY_REQUESTS or response.is_server_error:
            raise _Busy(f"HTTP {response.status_code}")
        if not response.is_success:
            raise SourceFailed(f"HTTP {response.status_code}")
        return response


def _first_fault(error: ValidationError) -> str:
    fault = error.errors(include_input=False, include_url=False)[0]
    return f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}"


class Ree:
    """Today's PVPC prices in Spain, from apidatos.ree.es. Takes no key."""

    name = "ree"
    enabled = True

    def __init__(self, fetcher: Fetcher, base_url: str) -> None:
        self._fetcher = fetcher
        self._url = f"{base_url}/es/datos/mercados/precios-mercados-tiempo-real"

    async def fetch(self, now: datetime) -> list[Price]:
        today = now.astimezone(MADRID).date()
        day = {"start_date": f"{today}T00:00", "end_date": f"{today}T23:59", "time_trunc": "hour"}
        return (await self._fetcher.get(ReeAnswer, self._url, params=day)).prices()


class Aemet:
    """The last hours of one AEMET station, asked for in two steps."""

    name = "aemet"

    def __init__(self, fetcher: Fetcher, base_url: str, station: str, key: SecretStr | None) -> None:
        self._fetcher, self._key = fetcher, _reveal(key)
        self._url = f"{base_url}/opendata/api/observacion/convencional/datos/estacion/{station}"

    @property
    def enabled(self) -> bool:
        return bool(self._key)

    async def fetch(self, now: datetime) -> list[Weather]:
        ticket = await self._fetcher.get(
            AemetTicket, self._url, headers={"api_key": self._key}, encoding=AEMET_ENCODING
        )
        return (await self._fetcher.get(AemetAnswer, ticket.address(), encoding=AEMET_ENCODING)).weather()


class OpenWeatherMap:
    """The current weather at one place (latitude, longitude)."""

    name = "openweathermap"

    def __init__(
        self, fetcher: Fetcher, base_url: str, place: tuple[float, float], key: SecretStr | None
    ) -> None:
        self._fetcher, self._place, self._key = fetcher, place, _reveal(key)
        self._url = f"{base_url}/data/2.5/weather"

    @property
    def enabled(self) -> bool:
        return bool(self._key)

    async def fetch(self, now: datetime) -> list[Weather]:
        latitude, longitude = self._place
        # Without units=metric it answers in kelvin.
        params: Parameters = {"lat": latitude, "lon": longitude, "appid": self._key, "units": "metric"}
        return (await self._fetcher.get(OpenWeatherMapAnswer, self._url, params=params)).weather()


def _reveal(key: SecretStr | None) -> str:
    return key.get_secret_value() if key else ""


def sources(settings: Settings, client: httpx.AsyncClient, wait: wait_base = BACKOFF) -> list[Source]:
    """Every source of these settings, all asked through one client."""
    fetcher = Fetcher(client, wait)
    place = (settings.latitude, settings.longitude)
    return [
        Ree(fetcher, settings.ree_base_url),
        Aemet(fetcher, settings.aemet_base_url, settings.aemet_station, settings.aemet_api_key),
        OpenWeatherMap(fetcher, settings.openweathermap_base_url, place, settings.openweathermap_api_key),
    ]
