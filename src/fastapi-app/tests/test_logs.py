import json
import logging
from collections.abc import Iterator

import pytest

from app import logs
from app.logs import JsonFormatter, PlainFormatter, configure_logging, redact


def record(message: str, **fields: object) -> logging.LogRecord:
    made = logging.makeLogRecord({"name": "app.test", "levelname": "WARNING", "msg": message, "created": 0.0})
    if fields:
        made.fields = fields
    return made


@pytest.fixture
def fresh_logging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(logs, "_redacted", set())
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    yield
    root.handlers[:] = before
    root.setLevel(level)


def test_a_production_line_is_one_json_document() -> None:
    line = JsonFormatter().format(record("startup complete", store="sqlite", ingestion=False))
    assert json.loads(line) == {
        "time": "1970-01-01T00:00:00+00:00",
        "level": "WARNING",
        "logger": "app.test",
        "event": "startup complete",
        "store": "sqlite",
        "ingestion": False,
    }


def test_a_development_line_reads_as_documented() -> None:
    line = PlainFormatter().format(record("Failed to read secret from /run/secrets/x"))
    assert line == "WARNING: Failed to read secret from /run/secrets/x"


@pytest.mark.parametrize("environment", ["production", "development"])
@pytest.mark.usefixtures("fresh_logging")
def test_secrets_become_stars_in_messages_fields_and_tracebacks(
    environment: str, capsys: pytest.CaptureFixture[str]
) -> None:
    secrets = ["plain-secret", 'quo"ted\\secret']
    configure_logging(environment, "INFO")
    redact(secrets)
    try:
        raise LookupError(secrets[0])
    except LookupError:
        logging.exception("failed with %s", secrets[1], extra={"fields": {"token": secrets[1]}})
    written = capsys.readouterr().err
    assert "LookupError: ***" in written
    assert written.count("***") >= 3
    assert all(secret not in written for secret in ("plain-secret", r"ted\secret", r"ted\\secret"))


@pytest.mark.usefixtures("fresh_logging")
def test_a_traceback_stays_within_its_one_line_in_production(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("production", "INFO")
    try:
        raise LookupError("gone")
    except LookupError:
        logging.exception("failed")
    [line] = capsys.readouterr().err.splitlines()
    assert "LookupError: gone" in json.loads(line)["trace"]


@pytest.mark.usefixtures("fresh_logging")
def test_libraries_that_log_whole_addresses_are_silenced(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("development", "DEBUG")
    logging.getLogger("httpx2").info("GET https://api.example/?appid=key")
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("fresh_logging")
def test_an_unknown_level_still_gives_a_log_to_report_it_in(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("development", "LOUD")
    logging.getLogger("app").info("here")
    assert capsys.readouterr().err == "INFO: here\n"
