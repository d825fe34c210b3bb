"""The first release behind an edge, where containers of env.up have had its port: they serve until it works."""

from __future__ import annotations

import json
import signal
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conche.engine.compose import Configuration
from conche.engine.connection import Engine
from conche.engine.containers import Container
from conche.engine.ports import Port
from conche.engine.service import Service
from conche.env.rollout.change import Change
from conche.env.rollout.handover import Handover, overlap
from conche.env.rollout.plan import Transition, plan_release
from conche.stack import Deploy
from tests.edged import EdgedStack
from tests.stacks import free_port

DEPLOY = Deploy(edge="edge", serves="web")
OLD = Container(
    "1", "x-web-1", "x", "web", "running", "healthy", "web", "sha256:1", "hash", publishes=(Port("127.0.0.1", 80),)
)  # fmt: skip


@pytest.mark.parametrize(
    ("some", "others", "meet"),
    [
        ([Port("127.0.0.1", 80)], [Port("127.0.0.1", 80)], True),
        ([Port("", 80)], [Port("127.0.0.1", 80)], True),
        ([Port("127.0.0.1", 80)], [Port("", 80)], True),
        ([Port("127.0.0.1", 80)], [Port("127.0.0.2", 80)], False),
        ([Port("", 80, "udp")], [Port("", 80)], False),
        ([Port("", 80)], [Port("", 81)], False),
        ([], [Port("", 81)], False),
    ],
)
def test_two_publish_the_same_where_port_and_address_meet(some: list[Port], others: list[Port], meet: bool) -> None:
    assert overlap(some, others) is meet


def test_what_has_the_port_gives_way_and_what_is_made_anew_before_does_not_have_it_then() -> None:
    store = Container(
        "2", "x-store-1", "x", "store", "running", "healthy", "s", "sha256:2", "h", publishes=(Port("", 80),)
    )

    both = Handover.of([OLD, store], "web", [Port("", 80)], ())
    one = Handover.of([OLD, store], "web", [Port("", 80)], ("store",))

    assert (both.holders, both.old) == ((OLD, store), (OLD,))
    assert one.holders == (OLD,)
    assert Handover.of([OLD], "web", [], ()).holders == ()


def test_nothing_stops_before_the_release_works_and_the_edge_was_tried() -> None:
    found = [
        Change("web", "beside", "was never deployed", "none"),
        Change("edge", "create", "has no container", "none"),
    ]

    plan = plan_release(Transition("r1", "nothing", found, {}, handover=Handover((OLD,), (OLD,))), DEPLOY)

    assert [(one.action, one.subject) for one in plan] == [
        ("record", "release r1"), ("start", "release r1 of web"), ("await", "release r1 of web"), ("try", "edge edge"),
        ("stop", "container x-web-1"), ("create", "service edge"), ("watch", "release r1 of web"),
        ("commit", "release r1"), ("stop", "release nothing of web"), ("remove", "release nothing of web"),
    ]  # fmt: skip
    assert Configuration("x", {"web": Service("web", "i", frozenset())}, (), ()).project == OLD.project


def without_edge(stack: EdgedStack) -> tuple[str, str]:
    """Take the edge out of a stack's files, and let the web service have its port; the files as they were."""
    compose, section = (Path(stack.folder, name).read_text() for name in ("compose/prod.yaml", "stack.yaml"))
    start, end = compose.index("  edge:\n"), compose.index("volumes:\n  edge:")
    plain = (compose[:start] + compose[end:]).replace(f"volumes:\n  edge: {{name: {stack.name}-edge}}\n", "")
    ports = '    ports: ["127.0.0.1:${CONCHE_PORT}:8000"]\n    stop_grace_period: 3s\n'
    stack.write("compose/prod.yaml", plain.replace("    stop_grace_period: 3s\n", ports))
    stack.write("stack.yaml", section[: section.index("    deploy:\n")])
    return compose, section


@pytest.fixture
def brought_up(fresh: EdgedStack) -> EdgedStack:
    """Version one on the port of the edge that is to come, by env.up; the files have the edge already."""
    compose, stack = without_edge(fresh)
    argv = ["docker", "tag", fresh.version("one"), f"localhost:5000/{fresh.name}:production"]
    subprocess.run(argv, check=True, capture_output=True)
    done = fresh.invoke("env.up", "--env", "prod")
    assert done.returncode == 0, done.stderr
    fresh.write("compose/prod.yaml", compose)
    fresh.write("stack.yaml", stack)
    return fresh


def ran(stack: EdgedStack, engine: Engine, service: str) -> list[tuple[str, Any]]:
    return [(one.id, one.started_at) for one in stack.containers(engine) if one.service == service]


@pytest.mark.engine
def test_the_edge_takes_the_port_over_and_a_database_does_not_notice(brought_up: EdgedStack, engine: Engine) -> None:
    store, (old,) = ran(brought_up, engine, "store"), ran(brought_up, engine, "web")
    assert brought_up.page()["version"] == "one"

    done = brought_up.deploy(brought_up.version("two"), "--json")

    assert done.returncode == 0, done.stderr
    assert brought_up.page() == {"version": "two", "release": "r1", "setting": "none"}
    assert ran(brought_up, engine, "store") == store
    assert old not in ran(brought_up, engine, "web")
    assert brought_up.leftovers(engine) == []
    assert brought_up.invoke("env.status", "--env", "prod").returncode == 0
    assert "Nothing to do" in brought_up.invoke("env.up", "--env", "prod").stdout


@pytest.mark.long
@pytest.mark.engine
def test_a_service_that_is_in_no_file_any_more_gives_its_port_and_stays_stopped(
    fresh: EdgedStack, engine: Engine
) -> None:
    compose, stack = without_edge(fresh)
    fresh.replace("compose/prod.yaml", "  web:\n", "  site:\n")
    subprocess.run(
        ["docker", "tag", fresh.version("one"), f"localhost:5000/{fresh.name}:production"],
        check=True, capture_output=True,
    )  # fmt: skip
    assert fresh.invoke("env.up", "--env", "prod").returncode == 0
    fresh.write("compose/prod.yaml", compose)
    fresh.write("stack.yaml", stack)

    done = fresh.deploy(fresh.version("two"), "--json")

    assert done.returncode == 0, done.stderr
    assert fresh.page()["version"] == "two"
    (site,) = [one for one in fresh.containers(engine) if one.service == "site"]
    seen = engine.client.api.inspect_container(site.id)
    assert (site.state, seen["HostConfig"]["RestartPolicy"]["Name"]) == ("exited", "no")
    assert any(site.name in warning for warning in json.loads(done.stdout)["warnings"])


@pytest.mark.engine
@pytest.mark.parametrize(("how", "stopped"), [("crash", False), ("sick-through-edge", False), ("dies", True)])
def test_a_release_that_fails_leaves_the_port_to_who_had_it(
    brought_up: EdgedStack, engine: Engine, how: str, stopped: bool
) -> None:
    store, (old,) = ran(brought_up, engine, "store"), ran(brought_up, engine, "web")
    brought_up.replace("stack.yaml", "observe: 1", "observe: 20")

    done = brought_up.deploy(brought_up.version("bad", how), "--json")

    assert (done.returncode, json.loads(done.stdout)["error"]["code"] != "") == (4, True), done.stderr
    assert brought_up.page()["version"] == "one"
    (now,) = ran(brought_up, engine, "web")
    assert (now[0], now[1] != old[1]) == (old[0], stopped)
    assert ran(brought_up, engine, "store") == store
    assert ran(brought_up, engine, "edge") == []
    assert brought_up.leftovers(engine) == []


@pytest.mark.engine
def test_a_handover_that_is_killed_is_taken_back_or_finished(brought_up: EdgedStack, engine: Engine) -> None:
    store = ran(brought_up, engine, "store")
    words = ("env.deploy", "--env", "prod", "--local", "--image", brought_up.version("two"))
    said = {}
    for step in ("await release", "try edge", "stop container", "create service edge", "watch release"):
        with brought_up.begin(*words) as running:
            assert running.stderr is not None
            next(line for line in running.stderr if line.startswith(step))
            running.send_signal(signal.SIGKILL)
        done = brought_up.invoke("env.recover", "--env", "prod")
        assert done.returncode == 0, done.stderr
        said[step] = brought_up.page()["version"]
        assert ran(brought_up, engine, "store") == store

    assert said == {**dict.fromkeys(said, "one"), "watch release": "two"}
    assert brought_up.leftovers(engine) == []


@pytest.mark.engine
def test_a_port_that_somebody_else_has_is_refused_before_anything_is_changed(fresh: EdgedStack, engine: Engine) -> None:
    other = f"{fresh.name}-other"
    port = f"127.0.0.1:{fresh.port}:80"
    argv = [
        "docker",
        "run",
        "--detach",
        "--name",
        other,
        "--publish",
        port,
        "python:3.11-slim-bookworm",
        "sleep",
        "600",
    ]
    subprocess.run(argv, check=True, capture_output=True)

    done = fresh.deploy(fresh.version("one"), "--json")

    assert (done.returncode, json.loads(done.stdout)["error"]["code"]) == (2, "port-taken")
    assert other in json.loads(done.stdout)["error"]["message"]
    assert fresh.containers(engine) == ()


@pytest.mark.engine
def test_an_edge_gets_another_address_or_port_and_the_old_one_back_where_the_release_fails(
    fresh: EdgedStack, engine: Engine
) -> None:
    assert fresh.deploy(fresh.version("one")).returncode == 0
    store = ran(fresh, engine, "store")

    fresh.replace("compose/prod.yaml", "127.0.0.1:${CONCHE_PORT}:8000", "${CONCHE_PORT}:8000")
    everywhere = fresh.deploy(fresh.version("one"), "--json")
    bindings = [one.publishes for one in fresh.containers(engine) if one.service == "edge"]
    other = free_port()
    fresh.replace("stack.yaml", f"port: {fresh.port}", f"port: {other}")
    failed = fresh.deploy(fresh.version("bad", "sick-to-users"), "--json")
    served = fresh.page()
    moved = fresh.deploy(fresh.version("two"), "--json")

    assert everywhere.returncode == 0, everywhere.stderr
    assert {(one.number, one.address in ("", "0.0.0.0", "::")) for one in bindings[0]} == {(fresh.port, True)}
    assert failed.returncode == 4, failed.stderr
    assert (served["version"], served["release"]) == ("one", "r2")
    assert moved.returncode == 0, moved.stderr
    assert replace(fresh, port=other).page()["version"] == "two"
    assert ran(fresh, engine, "store") == store


@pytest.mark.engine
def test_files_without_the_edge_do_not_take_the_port_of_one_that_serves(fresh: EdgedStack, engine: Engine) -> None:
    assert fresh.deploy(fresh.version("one")).returncode == 0
    without_edge(fresh)
    subprocess.run(["docker", "tag", fresh.reference("one"), f"localhost:5000/{fresh.name}:production"], check=True)
    before = [(one.id, one.started_at) for one in fresh.containers(engine)]

    refused = fresh.invoke("env.up", "--env", "prod", "--json")

    error = json.loads(refused.stdout)["error"]
    assert (refused.returncode, error["code"]) == (2, "port-taken")
    assert f"{fresh.project}-edge-1" in error["message"]
    assert [(one.id, one.started_at) for one in fresh.containers(engine)] == before
    assert fresh.page()["version"] == "one"
    subprocess.run(["docker", "rm", "--force", f"{fresh.project}-edge-1"], check=True, capture_output=True)
    done = fresh.invoke("env.up", "--env", "prod")
    assert done.returncode == 0, done.stderr
    assert fresh.page()["version"] == "one"
