"""What the factory measures. Timestamps are timezone-aware UTC."""

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict


def _to_utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC)


UtcTime = Annotated[AwareDatetime, AfterValidator(_to_utc)]


class Price(BaseModel):
    """The PVPC price of the hour that starts at `timestamp`, in EUR/MWh."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    timestamp: UtcTime
    price_eur_mwh: float
    provider: str


class Weather(BaseModel):
    """One observation: degrees Celsius, % relative humidity, hPa, m/s and mm. None: not measured."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    timestamp: UtcTime
    station_id: str
    data_source: str
    temperature: float | None = None
    humidity: float | None = None
    pressure: float | None = None
    wind_speed: float | None = None
    precipitation: float | None = None


WEATHER_FIELDS = ("temperature", "humidity", "pressure", "wind_speed", "precipitation")


class Window(BaseModel):
    """The moments from `start` (included) to `stop` (not included)."""

    model_config = ConfigDict(frozen=True)

    start: UtcTime
    stop: UtcTime
