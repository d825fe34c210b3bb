"""Whose health can be waited for."""

from __future__ import annotations

from typing import Any, cast

import pytest

from conche.engine import images
from conche.engine.compose import Configuration
from conche.engine.images import LocalImage
from conche.engine.rendered import healthcheck_of
from conche.engine.service import Service
from conche.env.waiting import never_healthy

HEALTHY = {"condition": "service_healthy"}
WELL = LocalImage("sha256:1", checked=True)
PLAIN = LocalImage("sha256:2")


@pytest.mark.parametrize(
    ("how", "healthcheck", "image", "replicas", "refused"),
    [
        (HEALTHY, None, PLAIN, 1, True),
        (HEALTHY, None, WELL, 1, False),
        (HEALTHY, None, None, 1, False),
        (HEALTHY, {"test": ["CMD", "true"]}, PLAIN, 1, False),
        (HEALTHY, {"disable": True}, WELL, 1, True),
        (HEALTHY, {"test": ["NONE"]}, WELL, 1, True),
        (HEALTHY, None, PLAIN, 0, False),
        ({"condition": "service_started"}, None, PLAIN, 1, False),
        ({**HEALTHY, "required": False}, None, PLAIN, 1, False),
    ],
)
def test_what_waits_for_the_health_of_a_service_without_a_healthcheck_is_named(
    monkeypatch: pytest.MonkeyPatch,
    how: dict[str, Any],
    healthcheck: dict[str, Any] | None,
    image: LocalImage | None,
    replicas: int,
    refused: bool,
) -> None:
    monkeypatch.setattr(images, "find", lambda _engine, _reference: image)
    body = {"healthcheck": healthcheck} if healthcheck else {}
    bodies = {"db": body, "web": {"depends_on": {"db": how}}}
    db = Service("db", "db:1", frozenset(), healthcheck=healthcheck_of(healthcheck), replicas=replicas)
    services = {"db": db, "web": Service("web", "web:1", frozenset(), replicas=1)}
    configuration = Configuration("shop", services, (), (), {"services": bodies})

    said = never_healthy(cast("Any", None), configuration, ["db", "web"])

    assert (said is not None) is refused
    if said is not None:
        assert said.message == "web waits until db is healthy, and db has no healthcheck."


def test_a_service_that_is_not_started_may_wait_for_anything() -> None:
    assert never_healthy(cast("Any", None), Configuration("shop", {}, (), (), {"services": {"web": {}}}), []) is None
