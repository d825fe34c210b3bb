"""Who is notified of a backup that fails or is degraded learns why from the notification itself."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from conche.backup import reporting
from conche.errors import Unreachable
from conche.outcome import Outcome
from conche.secret import Redactor, Secret

NOTIFICATIONS = SimpleNamespace(to=("address",))
SITE: Any = SimpleNamespace(
    stack=SimpleNamespace(name="shop", notifications=NOTIFICATIONS), section=SimpleNamespace(ping=None), say=print
)
CALL: Any = SimpleNamespace(
    vault=SimpleNamespace(everything=lambda: {"address": Secret("json://nowhere")}),
    output=SimpleNamespace(redact=Redactor()),
)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Titles and bodies of the notifications."""
    notifications: list[tuple[str, str]] = []

    def notify(to: list[Secret], title: str, body: str, *, failure: bool) -> str:
        assert [one.reveal() for one in to] == ["json://nowhere"]
        assert failure
        notifications.append((title, body))
        return ""

    monkeypatch.setattr(reporting, "notify", notify)
    return notifications


def test_one_that_fails_gives_its_reason(sent: list[tuple[str, str]]) -> None:
    error = Unreachable("influx-unreachable", "InfluxDB refuses the token.")

    with pytest.raises(Unreachable), reporting.reported(CALL, SITE, "backup.create daily"):
        raise error

    assert sent == [("shop: backup.create daily FAILED", "[influx-unreachable] InfluxDB refuses the token.")]


def test_one_that_is_degraded_names_what_is_missing(sent: list[tuple[str, str]]) -> None:
    lines = ["/backups/shop_1: 3 MB", "DEGRADED:", "  influxdb: InfluxDB refuses the token."]

    with reporting.reported(CALL, SITE, "backup.create daily") as told:
        told(Outcome(lines=lines, exit_code=3))

    assert sent == [("shop: backup.create daily: DEGRADED", "\n".join(lines))]


def test_one_that_is_whole_sends_nothing(sent: list[tuple[str, str]]) -> None:
    with reporting.reported(CALL, SITE, "backup.create daily") as told:
        told(Outcome(lines=["/backups/shop_1: 3 MB"]))

    assert sent == []
