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

DUMPS = """\
import sys
from conche.engine.connection import Engine
from conche.engine.programs import new_number, output
argv = ["sh", "-c", "head -c 3000000 /dev/zero; echo warning >&2; echo end"]
print(len(b"".join(output(Engine(sys.argv[1]), sys.argv[2], argv, number=new_number()))))
"""

LOGS_IN = """\
import sys
from conche.engine.connection import Engine
api = Engine(sys.argv[1]).client.api
for number in range(4):
    assert sys.argv[2] in [one["Id"] for one in api.containers()]
    packed = b"".join(api.get_archive(sys.argv[2], "/etc/passwd")[0])
    assert b"root" in packed
print(api.exec_start(api.exec_create(sys.argv[2], ["echo", "there"])["Id"]).decode(), end="")
print(len(api.containers(filters={"id": sys.argv[2]})))
"""

ENDED = """\
import sys
import psutil
from conche.engine.connection import Engine
api = Engine(sys.argv[1]).client.api
first = api._get(api._url("/_ping")).text
programs = psutil.Process().children()
assert len(programs) == 1, programs
for one in programs:
    one.kill()
psutil.wait_procs(programs)
print(first, api._get(api._url("/_ping")).text)
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


@pytest.fixture
def idle(engine: Engine, base_image: str) -> Iterator[str]:
    """The id of a container in which programs can be run."""
    one = engine.client.containers.run(base_image, ["sleep", "600"], detach=True, init=True)
    yield str(one.id)
    one.remove(force=True)


def test_a_connection_closes_after_its_other_end_has_hung_up(remote: Machine, idle: str) -> None:
    done = said_by(EXECS, remote.address, idle, path=remote.path)

    assert (done.returncode, done.stdout.split()) == (0, [str(number) for number in range(4)]), done.stderr


def test_a_dump_is_whole_when_its_program_has_ended(remote: Machine, idle: str) -> None:
    done = said_by(DUMPS, remote.address, idle, path=remote.path)

    assert (done.returncode, done.stdout) == (0, "3000004\n"), done.stderr


def test_requests_share_a_login_and_only_an_exec_ends_it(remote: Machine, engine: Engine, base_image: str) -> None:
    one = engine.client.containers.run(base_image, ["sleep", "600"], detach=True, init=True)
    before = remote.logins()
    try:
        done = said_by(LOGS_IN, remote.address, str(one.id), path=remote.path)
    finally:
        one.remove(force=True)

    assert (done.returncode, done.stdout.split()) == (0, ["there", "1"]), done.stderr
    assert remote.logins() - before == 2


def test_a_login_that_has_ended_is_made_again(remote: Machine) -> None:
    done = said_by(ENDED, remote.address, path=remote.path)

    assert (done.returncode, done.stdout) == (0, "OK OK\n"), done.stderr


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
