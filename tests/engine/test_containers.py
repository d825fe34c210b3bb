"""What the engine says of a container, as a value."""

from __future__ import annotations

from typing import Any

import pytest

from conche.engine.containers import parse, stop
from tests.engine.answering import answering


def inspected(status: str, said: str, streak: int, **healthcheck: int) -> dict[str, Any]:
    return {
        "Id": "1",
        "Name": "/web",
        "Image": "sha256:1",
        "State": {"Status": status, "Health": {"Status": said, "FailingStreak": streak, "Log": []}},
        "Config": {"Image": "web", "Labels": {}, "Healthcheck": {"Test": ["CMD", "true"], **healthcheck}},
    }


@pytest.mark.parametrize(
    ("state", "health"),
    [
        (inspected("running", "healthy", 0), "healthy"),
        (inspected("running", "starting", 0), "starting"),
        # As the engine has it from a pause until the next check.
        (inspected("paused", "unhealthy", 0), "starting"),
        (inspected("running", "unhealthy", 0), "starting"),
        (inspected("running", "unhealthy", 2), "starting"),
        (inspected("running", "unhealthy", 4, Retries=5), "starting"),
        # What has failed often enough has failed, before a pause and after it.
        (inspected("running", "unhealthy", 3), "unhealthy"),
        (inspected("running", "unhealthy", 1, Retries=1), "unhealthy"),
        (inspected("paused", "unhealthy", 7), "unhealthy"),
        # To the engine, all that has ended is.
        (inspected("exited", "unhealthy", 0), "none"),
        (inspected("dead", "unhealthy", 0), "none"),
    ],
)
def test_a_container_is_unhealthy_where_its_checks_have_failed(state: dict[str, Any], health: str) -> None:
    assert parse(state).health == health


def test_a_container_without_healthcheck_has_no_health() -> None:
    bare = inspected("running", "healthy", 0)
    del bare["State"]["Health"], bare["Config"]["Healthcheck"]

    assert parse(bare).health == "none"


class Stops:
    """An engine that notes how long it is waited for."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int | None]] = []

    def stop(self, container: str, timeout: int | None = None) -> None:
        self.asked.append((container, timeout))


@pytest.mark.parametrize(("said", "seconds"), [({"StopTimeout": 300}, 300), ({"StopTimeout": 0}, 0), ({}, 10)])
def test_a_container_is_waited_for_as_long_as_it_may_take_to_end(said: dict[str, int], seconds: int) -> None:
    body, api = inspected("running", "healthy", 0), Stops()
    body["Config"].update(said)

    stop(answering(api), parse(body))

    assert api.asked == [("1", seconds)]
