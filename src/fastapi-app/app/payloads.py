"""What the public APIs answer, as far as we read it, and how it becomes readings."""

from datetime import UTC, datetime

from pydantic import AliasPath, AwareDatetime, BaseModel, Field, RootModel

from app.errors import SourceFailed
from app.readings import Price, Weather

PVPC = "1001"
ESTADO_OK = 200


class ReeValue(BaseModel):
    """The price of one hour in EUR/MWh; the time carries Spain's offset of that day."""

    value: float
    datetime: AwareDatetime


class ReeSeries(BaseModel):
    id: str
    values: list[ReeValue] = Field(validation_alias=AliasPath("attributes", "values"))


class ReeAnswer(BaseModel):
    """GET /es/datos/mercados/precios-mercados-tiempo-real: PVPC is series 1001, spot prices are others."""

    included: list[ReeSeries]

    def prices(self) -> list[Price]:
        """24 hours in EUR/MWh, 23 or 25 on the days the clock changes; raises SourceFailed without PVPC."""
        series = next((series for series in self.included if series.id == PVPC), None)
        if series is None:
            raise SourceFailed(f"the answer has no series {PVPC} (PVPC)")
        return [
            Price(timestamp=hour.datetime, price_eur_mwh=hour.value, provider="ree") for hour in series.values
        ]


class AemetTicket(BaseModel):
    """AEMET's first answer, sent with HTTP 200 whatever `estado` says. `datos` is where the second one is."""

    estado: int
    descripcion: str = ""
    datos: str = ""

    def address(self) -> str:
        """Where to get the observations; raises SourceFailed when AEMET refused."""
        if self.estado != ESTADO_OK or not self.datos:
            raise SourceFailed(f"estado {self.estado}: {self.descripcion}")
        return self.datos


class AemetObservation(BaseModel):
    """Degrees Celsius, %, hPa, m/s, mm. A station may lack a sensor, and `fint` may lack its offset: UTC."""

    idema: str
    fint: datetime
    ta: float | None = None
    hr: float | None = None
    pres: float | None = None
    vv: float | None = None
    prec: float | None = None

    def weather(self) -> Weather:
        return Weather(
            timestamp=self.fint if self.fint.tzinfo else self.fint.replace(tzinfo=UTC),
            station_id=self.idema,
            data_source="aemet",
            temperature=self.ta,
            humidity=self.hr,
            pressure=self.pres,
            wind_speed=self.vv,
            precipitation=self.prec,
        )


class AemetAnswer(RootModel[list[AemetObservation]]):
    """AEMET's second answer: the last hours of one station, oldest first."""

    def weather(self) -> list[Weather]:
        return [observation.weather() for observation in self.root]


class OpenWeatherMapAnswer(BaseModel):
    """GET /data/2.5/weather with units=metric: degrees Celsius, %, hPa, m/s, mm in the last hour."""

    dt: int
    id: int
    temperature: float = Field(validation_alias=AliasPath("main", "temp"))
    humidity: float = Field(validation_alias=AliasPath("main", "humidity"))
    pressure: float = Field(validation_alias=AliasPath("main", "pressure"))
    wind_speed: float = Field(validation_alias=AliasPath("wind", "speed"))
    # The key is left out while it does not rain.
    rain: float = Field(default=0.0, validation_alias=AliasPath("rain", "1h"))

    def weather(self) -> list[Weather]:
        return [
            Weather(
                timestamp=datetime.fromtimestamp(self.dt, UTC),
                station_id=f"owm-{self.id}",
                data_source="openweathermap",
                temperature=self.temperature,
                humidity=self.humidity,
                pressure=self.pressure,
                wind_speed=self.wind_speed,
                precipitation=self.rain,
            )
        ]
