"""What runs in a container, where the engine can list it and where it cannot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import docker.errors
import pytest
import requests

from conche.engine.connection import Engine, EngineRefused
from conche.engine.inside import LISTED, processes
from tests.engine.answering import answering


class Refusing:
    """An engine that cannot list processes, and runs the command that does in a container."""

    def __init__(self, status: int) -> None:
        self.status, self.asked = status, list[list[str]]()

    def top(self, _: str) -> None:
        response = requests.Response()
        response.status_code = self.status
        raise docker.errors.APIError("unable to get all container pids", response)

    def exec_create(self, _: str, argv: Sequence[str], **__: object) -> dict[str, str]:
        self.asked.append([*argv])
        return {"Id": "e1"}

    def exec_start(self, _: str) -> bytes:
        return b"1 nginx: master process nginx \n22 nginx: worker process is shutting down \n30 \n"


def test_where_the_engine_cannot_list_processes_the_container_does() -> None:
    api = Refusing(500)

    assert processes(answering(api), "c") == {
        "1": "nginx: master process nginx", "22": "nginx: worker process is shutting down", "30": "",
    }  # fmt: skip
    assert api.asked == [["sh", "-c", LISTED]]


def test_that_a_container_does_not_run_is_said_as_it_is() -> None:
    api = Refusing(409)

    with pytest.raises(EngineRefused):
        processes(answering(api), "c")

    assert api.asked == []


@pytest.mark.engine
def test_both_ways_tell_the_same_of_a_real_container(engine: Engine, base_image: str) -> None:
    client: Any = engine.client
    container = client.containers.run(base_image, ["sleep", "1000"], detach=True)
    try:
        listed = container.exec_run(["sh", "-c", LISTED]).output.decode()
        assert list(processes(engine, container.id).values()) == ["sleep 1000"]
        assert "1 sleep 1000" in listed
    finally:
        container.remove(force=True)
