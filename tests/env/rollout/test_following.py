"""What env.recover restarts, since it follows a service that a killed release had replaced."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from conche.engine import containers
from conche.engine.compose import Compose
from conche.engine.connection import Engine
from conche.env.rollout.look import Look
from conche.env.rollout.recover import plan_recovery
from conche.release.records import Placed, Record, Records
from conche.stack import Deploy
from tests.env.rollout.test_plan import container, record

FOLLOWS = {"store": {"condition": "service_started", "restart": True}}
BODIES: dict[str, Any] = {name: {"depends_on": FOLLOWS} for name in ("web", "edge")}


@pytest.mark.parametrize(("state", "restarted"), [("running", ["web"]), ("exited", [])])
def test_what_runs_is_restarted_and_what_has_ended_stays_so(
    monkeypatch: pytest.MonkeyPatch, state: str, restarted: list[str]
) -> None:
    found = (container("store", made_from="another"), container("web", state=state))
    monkeypatch.setattr(containers, "one_off", lambda *_: ())
    monkeypatch.setattr(containers, "of_project", lambda _, project: found if project == "p" else ())
    look = Look("prod", Compose(Engine(), "p", ()), Deploy(), {"services": {"store": {}, **BODIES}})

    plan = plan_recovery(killed(), look).plan

    assert [step.name for step in plan if step.action == "recreate"] == ["store"]
    assert [step.name for step in plan if step.action == "restart"] == restarted


def killed() -> Records:
    """The records of a release that was killed after it had replaced the store."""
    before = record(1)
    store: Placed = replace(before.services["store"], definition="new", hashes=("another",))
    unfinished: Record = replace(record(2), services={**before.services, "store": store})
    return cast(
        "Records",
        SimpleNamespace(current=before, unfinished=unfinished, scaling=None, maintained=False, handover=lambda _: ()),
    )
