"""An engine behind a real sshd."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from conche.engine.connection import Engine
from tests.edged import EdgedStack
from tests.over_ssh import Machine, machine
from tests.stacks import ROOT

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def remote(tmp_path_factory: pytest.TempPathFactory, engine: Engine) -> Iterator[Machine]:
    with machine(tmp_path_factory.mktemp("machine")) as there:
        yield there


def said_by(script: str, *words: str, path: str) -> subprocess.CompletedProcess[str]:
    """What a Python process says that has the engine behind ssh as its own: the SDK leaves processes unattended."""
    given = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    argv = [sys.executable, "-c", script, *words]
    return subprocess.run(argv, env=given, capture_output=True, text=True, check=False)


EXECS = """\
import sys
from conche.engine.connection import Engine
api = Engine(sys.argv[1]).client.api
for number in range(4):
    begun = api.exec_create(sys.argv[2], ["echo", str(number)])["Id"]
    print(api.exec_start(begun).decode(), end="")
"""

NO_ENGINE = """\
import sys
from conche.engine.connection import Engine
from conche.errors import Unreachable
try:
    Engine(sys.argv[1]).client
except Unreachable as error:
    print(error.code)
"""


def test_a_connection_closes_after_its_other_end_has_hung_up(remote: Machine, engine: Engine, base_image: str) -> None:
    one = engine.client.containers.run(base_image, ["sleep", "600"], detach=True, init=True)
    try:
        done = said_by(EXECS, remote.address, str(one.id), path=remote.path)
    finally:
        one.remove(force=True)

    assert (done.returncode, done.stdout.split()) == (0, [str(number) for number in range(4)]), done.stderr


def test_an_ssh_that_is_refused_is_an_engine_that_does_not_answer(remote: Machine) -> None:
    refused = said_by(NO_ENGINE, remote.address.replace("//", "//nobody-"), path=remote.path)

    assert (refused.returncode, refused.stdout) == (0, "engine-unreachable\n"), refused.stderr


def test_a_release_with_an_edge_goes_to_an_engine_behind_ssh(
    remote: Machine, fresh: EdgedStack, engine: Engine
) -> None:
    fresh.replace("stack.yaml", "    tag: production", f"    tag: production\n    engine: {remote.address}")

    done = fresh.deploy(fresh.version("one"), PATH=remote.path)

    assert done.returncode == 0, done.stderr
    assert fresh.page()["version"] == "one"
    assert fresh.leftovers(engine) == []
