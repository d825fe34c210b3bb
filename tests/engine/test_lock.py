"""The lock in the engine: one holder, who is named, and who takes it along when dying."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from typing import Any

import docker.errors
import pytest

from conche.engine import lock, state
from conche.engine.connection import Engine
from conche.errors import Locked, NotRestored, Unreachable
from tests.stacks import ROOT

pytestmark = pytest.mark.engine

HOLDER = """\
import signal, sys
from conche.engine.connection import Engine
from conche.engine.lock import hold
with hold(Engine(), sys.argv[1], "invoke env.deploy --env prod", [sys.argv[2]]):
    print("held", flush=True)
    signal.pause()
"""


@pytest.fixture
def project(engine: Engine) -> Iterator[str]:
    name = f"t{uuid.uuid4().hex[:10]}-dev"
    yield name
    with contextlib.suppress(docker.errors.APIError):
        engine.client.api.remove_container(lock.name_of(name), force=True)


@contextlib.contextmanager
def another(project: str, image: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock."""
    argv = [sys.executable, "-c", HOLDER, project, image]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_lock_is_ours_until_we_let_it_go(engine: Engine, base_image: str, project: str) -> None:
    assert lock.holder(engine, project) is None

    with lock.hold(engine, project, "a test", [base_image]) as held:
        assert held is not None
        held.verify()
        found = lock.holder(engine, project)

    assert found is not None
    assert found.purpose == "a test"
    assert lock.holder(engine, project) is None


def test_a_second_one_is_told_who_holds_it(engine: Engine, base_image: str, project: str) -> None:
    with another(project, base_image) as process:
        with pytest.raises(Locked) as refused, lock.hold(engine, project, "a test", [base_image]):
            pytest.fail("two held it")

        assert refused.value.status == 7
        for part in (project, f"process {process.pid}", "invoke env.deploy --env prod"):
            assert part in refused.value.message
        with lock.hold(engine, f"{project}-other", "another project", [base_image]):
            pass


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_lock_goes_with_its_holder(engine: Engine, base_image: str, project: str, number: signal.Signals) -> None:
    said: list[str] = []
    with another(project, base_image) as process:
        process.send_signal(number)
        process.wait()

        with lock.hold(engine, project, "the next", [base_image], wait=300, say=said.append):
            found = lock.holder(engine, project)

    assert found is not None
    assert found.purpose == "the next"


def test_whoever_waits_gets_it_and_says_once_for_whom(engine: Engine, base_image: str, project: str) -> None:
    said: list[str] = []

    with another(project, base_image) as process:

        def end(_: float) -> None:
            process.kill()
            process.wait()

        with lock.hold(engine, project, "patient", [base_image], wait=300, say=said.append, pause=end) as held:
            assert held is not None

    assert [line for line in said if "invoke env.deploy --env prod" in line] == said
    assert len(said) == 1


def test_a_lock_that_was_made_and_never_started_is_taken_over(
    engine: Engine, base_image: str, project: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = engine.client.api.create_container(base_image, command=["true"], name=lock.name_of(project))
    with pytest.raises(Locked), lock.hold(engine, project, "at once", [base_image]):
        pytest.fail("somebody may just be starting it")
    monkeypatch.setattr(lock, "UNSTARTED", 0.0)

    with lock.hold(engine, project, "later", [base_image]) as held:
        assert held is not None
        assert held.container != made["Id"]


def test_a_lock_that_somebody_removed_is_noticed(engine: Engine, base_image: str, project: str) -> None:
    with lock.hold(engine, project, "a test", [base_image]) as held:
        assert held is not None
        engine.client.api.remove_container(held.container, force=True)

        with pytest.raises(NotRestored) as lost:
            held.verify()

    assert lost.value.code == "lock-lost"


def test_the_first_image_that_works_is_taken_and_without_any_there_is_no_lock(
    engine: Engine, base_image: str, project: str
) -> None:
    with lock.hold(engine, project, "a test", ["registry.invalid/none:1", base_image]) as held:
        assert held is not None
    with lock.hold(engine, project, "a test", ["registry.invalid/none:1"]) as held:
        assert held is None


def test_of_what_an_image_declares_helpers_leave_no_volume_and_are_of_no_project(
    engine: Engine, base_image: str, project: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, api = f"localhost:5000/{project}", engine.client.api
    dockerfile = f"FROM {base_image}\nVOLUME /data\nLABEL com.docker.compose.project={project}\n"
    subprocess.run(["docker", "build", "--quiet", "--tag", image, "-"], input=dockerfile, text=True, check=True)
    create, made, projects = api.create_container, set[str](), set[str]()

    def see_volumes(*words: Any, **options: Any) -> dict[str, str]:
        container: dict[str, str] = create(*words, **options)
        inspected = api.inspect_container(container["Id"])
        made.update(one["Name"] for one in inspected["Mounts"])
        projects.add(inspected["Config"]["Labels"]["com.docker.compose.project"])
        return container

    monkeypatch.setattr(api, "create_container", see_volumes)
    with lock.hold(engine, project, "a test", [image]):
        kept = state.State(engine, project, [image])
        kept.write({"some": b"thing"})
        kept.remove(["some"])
    state.forget(engine, project)
    engine.client.images.remove(image)

    assert projects == {""}
    assert len(made) == 4, "one each, and that of the state"
    assert made & {one["Name"] for one in api.volumes()["Volumes"]} == set()


def test_an_engine_that_does_not_answer_is_said() -> None:
    with pytest.raises(Unreachable), lock.hold(Engine("unix:///nonexistent.sock"), "p", "a test", ["x"]):
        pytest.fail("held nowhere")
