"""The environment, read once into a typed value."""

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    ValidationError,
)

from app import __version__
from app.errors import ConfigurationError
from app.secret_files import SECRETS_DIR, read_secret

SECRETS = ("INFLUXDB_TOKEN", "AEMET_API_KEY", "OPENWEATHERMAP_API_KEY", "REE_API_TOKEN", "ANTHROPIC_API_KEY")

# Credentials in an address would end up in logs and errors; they belong in the secrets.
Address = Annotated[
    str,
    StringConstraints(pattern=r"^https?://[^\s/@?#]+[^\s@?#]*$"),
    AfterValidator(lambda address: address.rstrip("/")),
]


def _default_store_path() -> Path:
    return Path(tempfile.gettempdir()) / "chocolate-factory.sqlite3"


def _only_in_production(fields: dict[str, object]) -> bool:
    return fields.get("environment") == "production"


class Settings(BaseModel):
    """One field for each variable of the same name in capitals; see the README for what each means."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    environment: Literal["development", "production"] = "development"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = "INFO"
    port: int = Field(default=8000, ge=0, le=65535, description="0 takes any free one")
    app_version: str = __version__
    git_revision: str = "unknown"
    conche_release: str = "unknown"
    conche_image_digest: str = "unknown"

    influxdb_url: Address | None = None
    influxdb_org: str = "chocolate_factory"
    influxdb_bucket: str = "energy_data"
    store_path: Path = Field(default_factory=_default_store_path)
    models_dir: Path = Path("models")

    ingestion_enabled: bool = Field(default_factory=_only_in_production)
    ingestion_interval_minutes: float = Field(default=60, ge=0, description="0 leaves the schedule off")
    ree_base_url: Address = "https://apidatos.ree.es"
    aemet_base_url: Address = "https://opendata.aemet.es"
    openweathermap_base_url: Address = "https://api.openweathermap.org"
    latitude: float = Field(default=38.151, ge=-90, le=90)
    longitude: float = Field(default=-4.989, ge=-180, le=180)
    aemet_station: str = Field(default="5279X", pattern=r"^[0-9A-Z]+$")

    influxdb_token: SecretStr | None = None
    aemet_api_key: SecretStr | None = None
    openweathermap_api_key: SecretStr | None = None
    ree_api_token: SecretStr | None = None
    anthropic_api_key: SecretStr | None = None

    @property
    def development(self) -> bool:
        return self.environment == "development"

    @property
    def secrets(self) -> list[str]:
        """Every secret in clear, for the one place that needs them all: the redaction of the log."""
        values = (getattr(self, name.lower()) for name in SECRETS)
        return [value.get_secret_value() for value in values if value is not None]


def load_settings(environ: Mapping[str, str], secrets_dir: Path = SECRETS_DIR) -> Settings:
    """The settings of this environment; raises ConfigurationError naming every problem at once.

    A variable that is set but empty counts as not set: that is what compose passes for `${NAME:-}`.
    """
    plain = {name.lower(): value for name, value in environ.items() if value and name not in SECRETS}
    secrets = {name.lower(): read_secret(name, environ, secrets_dir) for name in SECRETS}
    try:
        settings = Settings.model_validate({**plain, **secrets})
    except ValidationError as error:
        # A default that waits for a faulty field is no second problem.
        faults = (fault for fault in error.errors() if fault["type"] != "default_factory_not_called")
        raise ConfigurationError(*(_describe(dict(fault)) for fault in faults)) from None
    if problems := list(_contradictions(settings)):
        raise ConfigurationError(*problems)
    return settings


def _describe(fault: dict[str, object]) -> str:
    location = fault["loc"]
    name = str(location[0]).upper() if isinstance(location, tuple) and location else "settings"
    return f"{name}: {fault['msg']}"


def _contradictions(settings: Settings) -> Iterator[str]:
    if settings.influxdb_url is None:
        return
    if settings.influxdb_token is None:
        yield "INFLUXDB_TOKEN is missing or empty: INFLUXDB_URL is set and needs it"
    if settings.development and settings.ingestion_enabled:
        yield "INGESTION_ENABLED: development may only read from InfluxDB; ingest with ENVIRONMENT=production"
