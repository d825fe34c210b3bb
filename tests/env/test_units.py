"""What falls with a service that does not come up, and what does not: five services in turn."""

from __future__ import annotations

from typing import Any

import pytest

from conche.engine.compose import Configuration
from conche.engine.service import Service
from conche.env.units import fall_with

BODIES: dict[str, dict[str, Any]] = {
    "db": {},
    "app": {"depends_on": {"db": {"condition": "service_healthy"}}},
    "edge": {},
    "exporter": {"network_mode": "service:db"},
    "tailnet": {"depends_on": {"app": {"condition": "service_healthy", "required": False}}},
}
CONFIGURATION = Configuration(
    "p",
    {name: Service(name, "i", frozenset(), shares=("db",) if name == "exporter" else ()) for name in BODIES},
    (),
    (),
    {"services": BODIES},
)


@pytest.mark.parametrize(
    ("failed", "fallen"),
    [
        ("db", {"app": "db", "exporter": "db", "edge": "app"}),
        ("app", {"edge": "app"}),
        ("edge", {}),
        ("exporter", {}),
        ("tailnet", {}),
    ],
)
def test_what_needs_a_failed_service_falls_with_it_and_nothing_else(failed: str, fallen: dict[str, str]) -> None:
    assert fall_with(CONFIGURATION, [failed], set(BODIES), {"edge": "app"}) == fallen


def test_what_the_plan_leaves_alone_is_left_alone() -> None:
    assert fall_with(CONFIGURATION, ["db"], {"db", "exporter"}, {"edge": "app"}) == {"exporter": "db"}


def test_a_service_that_has_failed_by_itself_has_not_fallen() -> None:
    assert fall_with(CONFIGURATION, ["db", "app"], set(BODIES), {}) == {"exporter": "db"}
