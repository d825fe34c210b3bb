"""As many containers as the files say: none, more, fewer, and one that is gone; plain Compose is the measure."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conche.engine.connection import Engine
from conche.engine.rendered import replicas_of
from tests.env.test_no_drift import PY, Project

WEB = "services: {{web: {{{py}, {count}}}, other: {{{py}}}}}"


@pytest.mark.parametrize(
    ("body", "count"),
    [({}, 1), ({"scale": 0}, 0), ({"scale": 3}, 3), ({"deploy": {"replicas": 0}}, 0), ({"deploy": {}}, 1),
     ({"deploy": None}, 1), ({"scale": None, "deploy": {"replicas": 2}}, 2)],
)  # fmt: skip
def test_the_number_is_the_one_that_compose_reads(body: dict[str, Any], count: int) -> None:
    assert replicas_of(body) == count


@pytest.fixture
def project(tmp_path: Path, engine: Engine, base_image: str) -> Iterator[Project]:
    made = Project(tmp_path / "checkout", WEB.format(py=PY, count="scale: 2"))
    yield made
    made.stack.remove_all(engine)


@pytest.fixture
def count(project: Project, engine: Engine) -> Callable[[], tuple[int, int]]:
    """How many containers of each of the two services run."""

    def running() -> tuple[int, int]:
        found = [one.service for one in project.stack.containers(engine) if one.state == "running"]
        return found.count("web"), found.count("other")

    return running


def say(project: Project, count: str) -> None:
    project.stack.write("compose.yaml", WEB.format(py=PY, count=count))


@pytest.mark.engine
def test_a_service_has_as_many_containers_as_its_files_say(
    project: Project, count: Callable[[], tuple[int, int]], engine: Engine
) -> None:
    assert project.invoke("env.up").returncode == 0
    assert count() == (2, 1)
    first = set(project.ids(engine))

    for said, wanted, had in (
        ("scale: 3", 3, "has 2 containers"),
        ("scale: 1", 1, "has 3 containers"),
        ("scale: 0", 0, "has 1 container"),
        ("scale: 2", 2, "has no container"),
    ):
        say(project, said)
        status = project.invoke("env.status", "--env", "dev")
        assert (status.returncode, had in status.stdout) == (1, True), status.stdout

        done = project.invoke("env.up")

        assert (done.returncode, count()) == (0, (wanted, 1)), done.stderr
        now = set(project.ids(engine))
        project.compose("up", "--detach", "--no-build", "--pull", "never")
        assert set(project.ids(engine)) == now
        if wanted == 3:
            assert first < now
    project.see_no_drift()


@pytest.mark.engine
@pytest.mark.parametrize("ways", [[["kill"], ["wait"]], [["rm", "--force"]]], ids=["killed", "removed"])
def test_one_container_of_several_that_is_gone_comes_back_and_the_others_are_left_alone(
    ways: list[list[str]], project: Project, count: Callable[[], tuple[int, int]], engine: Engine
) -> None:
    assert project.invoke("env.up").returncode == 0
    one, *others = sorted(one.id for one in project.stack.containers(engine) if one.service == "web")
    for way in ways:  # the engine answers a kill before it knows that the container has died
        subprocess.run(["docker", *way, one], check=True, capture_output=True)
    assert project.invoke("env.status", "--env", "dev").returncode == 1

    done = project.invoke("env.up")

    assert (done.returncode, count()) == (0, (2, 1)), done.stderr
    assert set(others) < {one.id for one in project.stack.containers(engine)}
    project.see_no_drift()


@pytest.mark.engine
@pytest.mark.parametrize("number", ["scale: 0", "deploy: {replicas: 0}"])
def test_a_service_of_which_nobody_wants_one_is_no_fault(
    number: str, project: Project, count: Callable[[], tuple[int, int]]
) -> None:
    say(project, number)

    done = project.invoke("env.up")

    assert (done.returncode, count()) == (0, (0, 1)), done.stderr
    project.see_no_drift()
