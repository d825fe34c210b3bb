"""One line per event on stderr: JSON in production, `LEVEL: event` in development. Secrets become ***."""

import json
import logging
import sys
from collections.abc import Iterable
from datetime import UTC, datetime

# They log whole URLs at INFO, and OpenWeatherMap takes its key in the URL.
_TALKATIVE = ("httpx2", "httpcore2", "urllib3", "watchfiles")
# uvicorn gives these their own streams when it is started without `python -m app`.
_UVICORN = ("uvicorn", "uvicorn.access", "uvicorn.error")

_redacted: set[str] = set()


def configure_logging(environment: str, level: str) -> None:
    """Send every logger through one stream. An unknown level counts as INFO: the settings report it."""
    stream = logging.StreamHandler(sys.stderr)
    stream.setFormatter(JsonFormatter() if environment == "production" else PlainFormatter())
    known = level.upper() in logging.getLevelNamesMapping()
    logging.basicConfig(level=level.upper() if known else "INFO", handlers=[stream], force=True)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in _UVICORN:
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True


def redact(secrets: Iterable[str]) -> None:
    """Replace these strings by *** in every line from now on, tracebacks included."""
    _redacted.update(form for secret in secrets for form in (secret, json.dumps(secret)[1:-1]) if form)


def _clean(line: str) -> str:
    # Longest first: a secret may stand inside another.
    for secret in sorted(_redacted, key=len, reverse=True):
        line = line.replace(secret, "***")
    return line


class JsonFormatter(logging.Formatter):
    """{"time", "level", "logger", "event", ...the record's `fields`, "trace"?} on one line."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname,
            "logger": record.name,
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            entry["trace"] = self.formatException(record.exc_info)
        return _clean(json.dumps(entry, ensure_ascii=False, default=str))


class PlainFormatter(logging.Formatter):
    """`LEVEL: event {fields as JSON}`, with the traceback below it."""

    def format(self, record: logging.LogRecord) -> str:
        fields = getattr(record, "fields", None)
        line = f"{record.levelname}: {record.getMessage()}"
        if fields:
            line += f" {json.dumps(fields, ensure_ascii=False, default=str)}"
        if record.exc_info:
            line += f"\n{self.formatException(record.exc_info)}"
        return _clean(line)
