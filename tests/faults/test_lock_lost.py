"""The lock in the engine where things go wrong: a dead holder, no image, an engine that goes away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator

import docker.errors
import pytest

from conche.engine.connection import Engine
from conche.engine.lock import hold, holder
from tests.stacks import ROOT

pytestmark = pytest.mark.engine

HOLDS = """\
import signal, sys
from conche.engine.connection import Engine
from conche.engine.lock import hold
with hold(Engine(), sys.argv[1], "a test", [sys.argv[2]]):
    print("held", flush=True)
    signal.pause()
"""


@pytest.fixture
def project(engine: Engine) -> Iterator[str]:
    name = f"locked-{uuid.uuid4().hex[:8]}"
    yield name
    try:
        engine.client.api.remove_container(f"{name}-lock", force=True)
    except docker.errors.APIError:
        return


@pytest.fixture
def other(project: str, base_image: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds it."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, project, base_image],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_it_dies_with_its_holder(
    engine: Engine, project: str, base_image: str, other: subprocess.Popen[str], number: signal.Signals
) -> None:
    """The very next command gets it: that its holder is dead can be seen from here before the engine has seen it."""
    other.send_signal(number)
    other.wait()

    with hold(engine, project, "us", [base_image]):
        found = holder(engine, project)

    assert found is not None
    assert found.purpose == "us"


def test_an_image_that_is_not_there_or_lacks_the_program_is_passed_over(
    engine: Engine, project: str, base_image: str
) -> None:
    with hold(engine, project, "us", ["no-such-image:1", base_image]) as held:
        assert held is not None


def test_without_an_image_it_says_that_only_this_machine_is_kept_out(engine: Engine, project: str) -> None:
    said: list[str] = []
    with hold(engine, project, "us", ["no-such-image:1"], say=said.append) as held:
        assert held is None

    assert said == [f"{project}: the engine has no image yet, so its lock keeps out only commands of this machine"]


def test_an_engine_that_goes_away_hides_no_error(project: str, base_image: str) -> None:
    lost = Engine()

    def lose() -> None:
        with hold(lost, project, "us", [base_image]):
            lost.client.api.base_url = "http://127.0.0.1:9"
            raise ValueError("the first error")

    with pytest.raises(ValueError, match="the first error"):
        lose()
