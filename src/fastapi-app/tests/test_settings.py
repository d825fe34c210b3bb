import logging
from pathlib import Path

import pytest
from pydantic import ValidationError

from app.errors import ConfigurationError
from app.secret_files import read_secret
from app.settings import SECRETS, Settings, load_settings

TOKEN = "canary-7f3a-token"
INFLUX = {"INFLUXDB_URL": "http://influxdb:8086"}


def load(environ: dict[str, str], secrets_dir: Path = Path("/nonexistent")) -> Settings:
    return load_settings(environ, secrets_dir)


def test_an_empty_environment_is_a_development_that_ingests_nothing() -> None:
    settings = load({})
    assert settings.development
    assert not settings.ingestion_enabled
    assert settings.influxdb_url is None


def test_production_ingests_unless_told_otherwise() -> None:
    production = {"ENVIRONMENT": "production"}
    assert load(production).ingestion_enabled
    assert not load({**production, "INGESTION_ENABLED": "false"}).ingestion_enabled


def test_a_variable_set_to_nothing_counts_as_not_set() -> None:
    assert load({"INFLUXDB_URL": "", "LOG_LEVEL": "", "INGESTION_ENABLED": ""}) == load({})


def test_every_problem_is_named_at_once() -> None:
    environ = {"ENVIRONMENT": "staging", "LOG_LEVEL": "LOUD", "LATITUDE": "north", "PORT": "eighty"}
    with pytest.raises(ConfigurationError) as caught:
        load(environ)
    assert [problem.split(":")[0] for problem in str(caught.value).split("; ")] == [
        "ENVIRONMENT",
        "LOG_LEVEL",
        "PORT",
        "LATITUDE",
    ]


@pytest.mark.parametrize("url", ["influxdb:8086", "ftp://influxdb", "http://user:word@influxdb:8086"])
def test_an_address_must_be_http_and_hold_no_credentials(url: str) -> None:
    with pytest.raises(ConfigurationError, match="INFLUXDB_URL") as caught:
        load({"INFLUXDB_URL": url, "INFLUXDB_TOKEN": TOKEN})
    assert "word" not in str(caught.value)


def test_influxdb_without_a_token_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="INFLUXDB_TOKEN is missing"):
        load(INFLUX)


def test_influxdb_with_an_empty_token_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "influxdb_token").write_text("\n")
    with pytest.raises(ConfigurationError, match="INFLUXDB_TOKEN is missing or empty"):
        load(INFLUX, tmp_path)


def test_a_development_that_would_ingest_into_influxdb_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="may only read"):
        load({**INFLUX, "INFLUXDB_TOKEN": TOKEN, "INGESTION_ENABLED": "true"})


def test_settings_never_show_a_secret() -> None:
    settings = load({name: TOKEN for name in SECRETS})
    assert TOKEN not in f"{settings!r} {settings} {settings.model_dump_json()}"
    assert settings.secrets == [TOKEN] * len(SECRETS)


def test_what_the_validation_says_does_not_repeat_the_value() -> None:
    with pytest.raises(ValidationError) as caught:
        Settings.model_validate({"log_level": TOKEN})
    assert TOKEN not in str(caught.value)


def test_an_invalid_field_next_to_a_secret_does_not_show_the_secret() -> None:
    with pytest.raises(ConfigurationError) as caught:
        load({"INFLUXDB_TOKEN": TOKEN, "LOG_LEVEL": "LOUD"})
    assert TOKEN not in f"{caught.value!r} {caught.value.__cause__!r}"


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        (("mounted", "file", "environment"), "from-mounted"),
        (("file", "environment"), "from-file"),
        (("environment",), "from-environment"),
        ((), None),
    ],
)
def test_a_secret_comes_from_the_first_place_that_has_one(
    tmp_path: Path, places: tuple[str, ...], expected: str | None
) -> None:
    environ: dict[str, str] = {}
    if "mounted" in places:
        (tmp_path / "aemet_api_key").write_text("from-mounted\n")
    if "file" in places:
        (tmp_path / "elsewhere").write_text("from-file\n")
        environ["AEMET_API_KEY_FILE"] = str(tmp_path / "elsewhere")
    if "environment" in places:
        environ["AEMET_API_KEY"] = "from-environment"
    secret = read_secret("AEMET_API_KEY", environ, tmp_path)
    assert (secret and secret.get_secret_value()) == expected


def test_falling_back_to_the_environment_logs_the_documented_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    read_secret("AEMET_API_KEY", {"AEMET_API_KEY": TOKEN}, tmp_path)
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith(f"Failed to read secret from {tmp_path}/aemet_api_key")
    assert TOKEN not in caplog.text


@pytest.mark.parametrize("content", [b"", b"\xff\xfe"], ids=["empty", "not text"])
def test_a_mounted_file_without_a_usable_value_is_warned_of_and_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    (tmp_path / "aemet_api_key").write_bytes(content)
    assert read_secret("AEMET_API_KEY", {}, tmp_path) is None
    assert "Failed to read secret from" in caplog.text


def test_a_mounted_secret_that_cannot_be_read_falls_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "aemet_api_key").mkdir()  # unreadable for every user, root included
    secret = read_secret("AEMET_API_KEY", {"AEMET_API_KEY": TOKEN}, tmp_path)
    assert secret is not None
    assert secret.get_secret_value() == TOKEN
    assert "Failed to read secret from" in caplog.text


def test_a_named_file_that_is_missing_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert read_secret("AEMET_API_KEY", {"AEMET_API_KEY_FILE": "/no/such/file"}, tmp_path) is None
    assert "/no/such/file" in caplog.text


def test_an_optional_secret_that_is_nowhere_is_no_matter_for_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert read_secret("ANTHROPIC_API_KEY", {}, tmp_path) is None
    assert caplog.records == []
