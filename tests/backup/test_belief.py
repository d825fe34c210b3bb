"""Notes in the target that a stranger has written: nothing is started, ended, removed or called by their word."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from conche.backup import belief, holding, notes, running
from conche.backup.running import Program
from conche.backup.site import Site, open_site
from conche.command import Invocation
from conche.engine import containers
from conche.engine.connection import Engine
from conche.engine.containers import Container
from conche.formats import RUNNING, WAITING
from conche.output import Output
from tests.backup.checkouts import with_backup
from tests.stacks import SmallStack

STACK = """\
name: factory
environments:
  prod: {compose: [compose.yaml], engine: "unix:///nonexistent/engine.sock"}
backup:
  components:
    models: {driver: volume, volume: models, environment: prod}
    database: {driver: influxdb, environment: prod, service: influxdb, token_file: /run/secrets/token}
"""
OURS = "unix:///nonexistent/engine.sock"
ID, NUMBER = "c0ffee" * 10, "5e" * 16

PROGRAM = Program(
    OURS, ID, "web", NUMBER, f"/tmp/conche-backup-{NUMBER}", "prices_drill_01234567", "/run/secrets/token"
)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def site(tmp_path: Path, said: list[str]) -> Site:
    (tmp_path / "compose.yaml").write_text("services: {web: {image: x}, influxdb: {image: y}}\n")
    (tmp_path / "stack.yaml").write_text(STACK)
    site = replace(open_site(Invocation(tmp_path, Output("backup.create"))), say=said.append)
    site = replace(site, target=replace(site.target, folder=tmp_path / "target"))
    site.target.store.mkdir(parents=True)
    return site


@pytest.fixture
def elsewhere() -> Iterator[tuple[str, socket.socket]]:
    """An address that is no engine of the stack, and the socket that would be called there."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}", server


def waits(site: Site, **said: object) -> Path:
    """Write a note about waiting containers."""
    content: dict[str, Any] = {"engine": OURS, "volumes": [], "ids": [], "stopped": [], **said}
    file = site.target.store / holding.NOTE
    file.write_text(json.dumps(WAITING.stamped(content)))
    return file


def runs(site: Site, program: Program, number: str = NUMBER) -> Path:
    """Write a note about a program in a container."""
    file = site.target.store / f"{number}.{running.NOTE}"
    file.write_text(json.dumps(RUNNING.stamped(asdict(program))))
    return file


def test_no_engine_of_others_is_called(site: Site, said: list[str], elsewhere: tuple[str, socket.socket]) -> None:
    address, server = elsewhere
    file = waits(site, engine=address, ids=[ID], stopped=[ID], volumes=["models"])

    left = holding.left(site)
    problems = holding.recover(site)

    assert (left, problems, file.exists()) == ([], [], False)
    assert any(f"names the engine {address}, which is not of this stack: ignored" in line for line in said)
    [kept] = site.target.store.glob(f"{holding.DAMAGED}*")
    with pytest.raises(BlockingIOError):
        server.accept()

    said.clear()
    assert (holding.left(site), holding.recover(site), kept.exists()) == ([], [], True)
    assert any("backup.settle --as-it-is" in line for line in said)


@pytest.mark.parametrize(
    "name", ["../../containers/create", "web", "", "C0FFEE", "c0ffee/start", 7, None, [ID], {"a": 1}]
)
def test_what_can_be_no_container_of_a_note_is_asked_of_no_engine(site: Site, said: list[str], name: object) -> None:
    waits(site, ids=[name], stopped=[name])

    assert (holding.left(site), holding.recover(site)) == ([], [])
    assert any("which is not of this stack: ignored" in line for line in said)


@pytest.mark.parametrize("volume", ["theirs", "factory-prod-drill-x", "other-drill-01234567", 7, {"a": 1}])
def test_helpers_of_others_volumes_are_left_alone(site: Site, said: list[str], volume: object) -> None:
    """The engine of this stack does not answer, so that any call would be an error."""
    waits(site, volumes=[volume])

    assert holding.recover(site) == []
    assert [line for line in said if "which is not of this stack" in line]
    assert [line for line in said if "No Docker engine answers" in line] == []


def test_our_own_volumes_and_those_of_drills_are_believed(site: Site) -> None:
    project = site.stack.project("prod")

    assert belief.is_own_volume(site, OURS, "models")
    assert belief.is_own_volume(site, OURS, f"{project}-drill-01234567")
    assert not belief.is_own_volume(site, None, "models")


@pytest.mark.parametrize(
    "forged",
    [
        {"address": None},
        {"address": ["unix:///x"]},
        {"container": "web"},
        {"container": "../../containers/create"},
        {"folder": "/"},
        {"folder": f"/tmp/conche-backup-{NUMBER}/../../data"},
        {"folder": f"/tmp/conche-backup-{NUMBER}\n/data"},
        {"bucket": "prices"},
        {"token_file": "/etc/passwd"},
        {"number": "another"},
        {"number": "../5e5e"},
    ],
    ids=str,
)
def test_a_program_that_none_of_ours_could_be_is_neither_ended_nor_cleaned_up(
    site: Site, forged: dict[str, Any]
) -> None:
    runs(site, PROGRAM)
    assert running.left(site) == [PROGRAM]

    file = runs(site, replace(PROGRAM, **forged))

    assert (running.left(site), running.unknown(site)) == ([], [file])
    with pytest.raises(notes.Damaged, match="names what is not of this stack"):
        running.require_understood(site)


def test_a_number_that_is_none_is_no_argument_of_a_program(site: Site, said: list[str]) -> None:
    runs(site, PROGRAM, "$(reboot)")

    running.recover(site)

    assert [line for line in said if "No Docker engine answers" in line] == []


def made(project: str) -> Container:
    return Container(ID, "web", project, "web", "exited", "none", "x", "y", "z")


def test_a_container_is_ours_by_its_project(site: Site) -> None:
    assert belief.own_containers(site, OURS)(made(site.stack.project("prod")))


# On an engine: a container of somebody else, and one of ours


@pytest.fixture
def stranger(engine: Engine, base_image: str, small: SmallStack) -> Iterator[str]:
    """A stopped container that has nothing to do with the stack."""
    api = engine.client.api
    made = api.create_container(base_image, ["sleep", "600"], name=f"{small.name}-stranger")["Id"]
    yield made
    api.remove_container(made, force=True)


@pytest.mark.engine
def test_only_our_own_containers_are_started(small: SmallStack, engine: Engine, stranger: str) -> None:
    with_backup(small)
    small.up()
    [ours] = small.containers(engine)
    containers.stop(engine, ours)
    store = open_site(Invocation(small.folder, Output("backup.create"))).target.store
    store.mkdir(parents=True)
    note = {"engine": None, "volumes": [], "ids": [], "stopped": [stranger, ours.id]}
    (store / holding.NOTE).write_text(json.dumps(WAITING.stamped(note)))

    done = small.invoke("backup.settle")

    assert done.returncode == 0, done.stderr
    assert f"names the container {small.name}-stranger, which is not of this stack: ignored" in done.stderr
    states = [seen.state for one in (stranger, ours.id) if (seen := containers.read(engine, one))]
    assert states == ["created", "running"]


@pytest.mark.engine
def test_no_program_is_ended_in_a_container_of_others(
    small: SmallStack, engine: Engine, stranger: str, said: list[str]
) -> None:
    with_backup(small)
    engine.client.api.start(stranger)
    site = replace(open_site(Invocation(small.folder, Output("backup.create"))), say=said.append)
    site.target.store.mkdir(parents=True)
    runs(site, Program(None, stranger, "web", NUMBER, f"/tmp/conche-backup-{NUMBER}"))

    running.recover(site)

    assert any("names what is not of this stack" in line for line in said)
    assert running.left(site) != []
