"""What is looked up before a release: whether its images can be had."""

from __future__ import annotations

from typing import Any, cast

import pytest

from conche.engine import images
from conche.engine.compose import Configuration
from conche.engine.service import Service
from conche.env.rollout.prepare import require_pullable
from conche.errors import Refused


@pytest.mark.parametrize(
    ("there", "own", "policies", "refused"),
    [
        (False, False, {"web": False, "job": False}, True),
        (False, False, {"web": False, "job": True}, False),
        (False, True, {"web": False, "job": False}, False),
        (True, False, {"web": False, "job": False}, False),
    ],
)
def test_an_image_that_no_service_lets_be_pulled_has_to_be_there(
    monkeypatch: pytest.MonkeyPatch, there: bool, own: bool, policies: dict[str, bool], refused: bool
) -> None:
    monkeypatch.setattr(images, "find", lambda _engine, _reference: object() if there else None)
    services = {name: Service(name, "app:1", frozenset(), pulled=pulled) for name, pulled in policies.items()}
    configuration = Configuration("shop", services, (), ())
    engine = cast("Any", None)

    if not refused:
        require_pullable(engine, configuration, {"app:1": "app:1"}, ["app:1"] if own else [])
        return
    with pytest.raises(Refused) as error:
        require_pullable(engine, configuration, {"app:1": "app:1"}, [])

    assert error.value.code == "image-never-pulled"
    assert "not pulled for web, job" in error.value.message
