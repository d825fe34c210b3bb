"""A failure that is being explained stays the one that is told, whatever its explanation runs into."""

from __future__ import annotations

import pytest

from conche.engine import containers
from conche.engine.compose import Compose
from conche.engine.connection import Engine
from conche.engine.containers import Container
from conche.engine.health import Waiting
from conche.env.evidence import evidence, reasons
from conche.errors import Unreachable
from tests.stacks import SmallStack

BAD = """\
services:
  bad:
    image: python:3.11-slim-bookworm
    command: ["python3", "-c", "print('no licence', flush=True); raise SystemExit(3)"]
    logging: {driver: none}
"""


@pytest.mark.engine
def test_a_log_that_cannot_be_read_does_not_hide_why_a_service_failed(small: SmallStack, engine: Engine) -> None:
    small.write("compose/dev.yaml", BAD)

    failed = small.invoke("env.up")

    assert failed.returncode == 4, failed.stderr
    assert "error [start-failed]: bad exited with 3; what was begun has been taken back." in failed.stderr
    assert 'bad-1 exited with 3; its log goes to "none" and cannot be read' in failed.stderr
    assert small.containers(engine) == ()


def test_an_engine_that_is_lost_while_a_failure_is_explained_does_not_take_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compose = Compose(Engine(), "p", ())
    one = Container("1", "p-web-1", "p", "web", "exited", "none", "i", "i", "h", health_log=("refused",), error="oom")

    def lost(*_: object) -> tuple[str, ...]:
        raise Unreachable("engine-unreachable", "No Docker engine answers.")

    monkeypatch.setattr(containers, "last_lines", lost)
    waiting = Waiting((one,), {"p-web-1": "exited with 3", "db": "has no container"})

    assert evidence(compose, waiting) == [
        "p-web-1 exited with 3; its log cannot be read: No Docker engine answers.",
        "healthcheck: refused",
        "engine: oom",
    ]
    assert reasons(waiting) == "db has no container, web exited with 3"
