"""What a developer does with this repository, on the real engine."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from conche.engine.connection import Engine
from tests.stacks import SmallStack

pytestmark = [pytest.mark.engine, pytest.mark.e2e]


@pytest.fixture(autouse=True)
def is_up(development: SmallStack) -> None:
    development.up()


def ask(stack: SmallStack, path: str, method: str = "GET") -> httpx.Response:
    return httpx.request(method, f"http://127.0.0.1:{stack.port}{path}", timeout=300)


def until(condition: Callable[[], bool], seconds: float = 300) -> bool:
    """Ask again and again, until it is so or time is over; between two questions lies a whole request."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if condition():
                return True
        except httpx.HTTPError:
            continue
    return False


def test_the_application_is_healthy_and_says_what_it_is(development: SmallStack) -> None:
    version = ask(development, "/version").json()

    assert ask(development, "/health").json()["status"] == "healthy"
    assert ask(development, "/ready").status_code == 200
    assert version["environment"] == "development"


def test_a_fresh_machine_serves_sample_prices_and_weather(development: SmallStack) -> None:
    assert ask(development, "/prices?hours=5").json()["count"] == 5
    assert ask(development, "/weather?hours=5").json()["count"] == 5


def test_development_does_not_ingest(development: SmallStack) -> None:
    assert ask(development, "/ingest/run", "POST").status_code == 403


def test_an_edit_is_there_without_a_rebuild(development: SmallStack, engine: Engine) -> None:
    before = [container.id for container in development.containers(engine)]
    development.replace("src/fastapi-app/app/api.py", '"status": "healthy"', '"status": "edited"')

    assert until(lambda: ask(development, "/health").json()["status"] == "edited")
    assert [container.id for container in development.containers(engine)] == before

    development.replace("src/fastapi-app/app/api.py", '"status": "edited"', '"status": "healthy"')
    assert until(lambda: ask(development, "/health").json()["status"] == "healthy")


def test_the_container_runs_without_root_and_cannot_write_the_checkout(development: SmallStack) -> None:
    script = "import os; print(os.getuid()); open('/app/written', 'w')"

    tried = development.invoke("env.exec", "--service", "fastapi-app-dev", "--", "python", "-c", script)

    assert int(tried.stdout) != 0
    assert "Read-only file system" in tried.stderr
    assert tried.returncode == 1


def test_models_outlive_the_container(development: SmallStack) -> None:
    trained = ask(development, "/models/train", "POST").json()

    assert development.invoke("env.down").returncode == 0
    development.up()

    assert ask(development, "/models").json()[trained["type"]]["latest"]["filename"] == trained["filename"]


def test_status_is_one_json_document(development: SmallStack) -> None:
    done = development.invoke("env.status", "--env", "dev", "--json")

    document: Any = json.loads(done.stdout)
    (service,) = document["value"][0]["services"]
    assert done.returncode == 0
    assert service["ports"] == [f"127.0.0.1:{development.port}->8000/tcp"]
    assert document["schema"] == "conche/1"


def test_an_application_that_crashes_at_start_leaves_the_one_that_works(
    development: SmallStack, engine: Engine
) -> None:
    (before,) = development.containers(engine)
    development.replace("compose/dev.yaml", "LOG_LEVEL: DEBUG", "LOG_LEVEL: NONSENSE")

    failed = development.invoke("env.up")

    development.replace("compose/dev.yaml", "LOG_LEVEL: NONSENSE", "LOG_LEVEL: DEBUG")
    assert failed.returncode == 4
    assert "LOG_LEVEL" in failed.stderr
    assert [container.id for container in development.containers(engine)] == [before.id]
    assert ask(development, "/health").status_code == 200


def test_production_without_a_key_is_refused_before_anything_changes(development: SmallStack, engine: Engine) -> None:
    before = [container.id for container in development.containers(engine)]

    refused = development.invoke("env.up", "--env", "prod")

    assert refused.returncode == 8
    assert "error [demonstration-key]" in refused.stderr
    assert "invoke secrets.init" in refused.stderr
    assert [container.id for container in development.containers(engine)] == before
