"""What runs in a container, where the engine can list it and where it cannot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import docker.errors
import pytest
import requests

from conche.engine.connection import Engine, EngineRefused
from conche.engine.inside import LISTED, execute, processes
from conche.errors import ConcheError, Unreachable
from conche.process import Completed
from conche.secret import Captured
from tests.engine.answering import answering


class Refusing:
    """An engine that cannot list processes."""

    def __init__(self, status: int, cgroups: str) -> None:
        self.status, self.cgroups = status, cgroups

    def top(self, _: str) -> None:
        response = requests.Response()
        response.status_code = self.status
        raise docker.errors.APIError("unable to get all container pids", response)

    def info(self) -> dict[str, str]:
        return {"CgroupDriver": self.cgroups}


def listing(monkeypatch: pytest.MonkeyPatch, said: str, code: int = 0) -> list[Sequence[str]]:
    """Have the command that lists processes in a container end with this; return what is run."""
    asked: list[Sequence[str]] = []

    def execute(_: Engine, __: str, argv: Sequence[str]) -> Completed:
        asked.append(argv)
        return Completed(tuple(argv), code, Captured(said), Captured("sh: not found" if code else ""))

    monkeypatch.setattr("conche.engine.inside.execute", execute)
    return asked


def test_where_the_engine_cannot_list_processes_the_container_does(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = listing(monkeypatch, "1 nginx: master process nginx \n22 nginx: worker process is shutting down \n30 \n")

    assert processes(answering(Refusing(500, "none")), "c") == {
        "1": "nginx: master process nginx", "22": "nginx: worker process is shutting down", "30": "",
    }  # fmt: skip
    assert asked == [("sh", "-c", LISTED)]


@pytest.mark.parametrize(
    ("status", "cgroups"), [(409, "none"), (500, "cgroupfs")], ids=["does not run", "failed this time"]
)
def test_one_container_is_not_listed_in_two_ways(monkeypatch: pytest.MonkeyPatch, status: int, cgroups: str) -> None:
    asked = listing(monkeypatch, "1 nginx: worker process\n")

    with pytest.raises(EngineRefused):
        processes(answering(Refusing(status, cgroups)), "c")

    assert asked == []


@pytest.mark.parametrize(("said", "code"), [("", 0), ("", 126)], ids=["without tr", "without a shell, or ending"])
def test_no_answer_is_not_taken_for_no_process(monkeypatch: pytest.MonkeyPatch, said: str, code: int) -> None:
    listing(monkeypatch, said, code)

    with pytest.raises(ConcheError):
        processes(answering(Refusing(500, "none")), "c")


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


@pytest.mark.engine
def test_a_command_that_says_nothing_is_not_waited_for(
    engine: Engine, base_image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client: Any = engine.client
    container = client.containers.run(base_image, ["sleep", "1000"], detach=True)
    try:
        done = execute(engine, container.id, ("sh", "-c", "echo said; echo complained >&2; exit 3"))
        assert (done.exit_code, done.stdout.raw, done.stderr.raw) == (3, "said\n", "complained\n")
        monkeypatch.setattr("conche.engine.inside.SILENCE", 0.5)
        with pytest.raises(Unreachable):
            execute(engine, container.id, ("sleep", "100"))
    finally:
        container.remove(force=True)
