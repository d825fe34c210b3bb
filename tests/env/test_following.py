"""What follows a service that was made or started anew, by a command that was killed before it came to the follower."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import psutil
import pytest

from conche.engine import images
from conche.engine.compose import Compose, Configuration
from conche.engine.connection import Engine
from conche.engine.containers import LABEL, Container, parse
from conche.engine.service import Service
from conche.env import observe
from conche.env.following import overdue
from conche.env.observe import Observed, glance
from conche.env.plan import drift, plan_up
from conche.env.report import is_well
from conche.stack import parse as stack_of
from tests import warm
from tests.stacks import SmallStack

FOLLOWS = {"web": ("store",), "store": (), "third": ("web",), "apart": ()}


def at(second: float) -> datetime:
    return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=second)


def one(service: str, started: float = 2, created: float = 0, state: str = "running", **said: object) -> Container:
    plain = Container(
        f"id-{service}", f"p-{service}-1", "p", service, state, "none", "image", "sha256:1", f"hash-{service}",
        created_at=at(created), started_at=at(started),
    )  # fmt: skip
    return replace(plain, **said)  # type: ignore[arg-type]


NEWER = one("store", 11, created=10)


@pytest.mark.parametrize(
    ("found", "late"),
    [
        ((one("store"), one("web", 3), one("third", 4)), []),
        ((NEWER, one("web"), one("third"), one("apart")), ["web", "third"]),
        ((NEWER, one("web", 12), one("third")), ["third"]),
        ((NEWER, one("web", 12), one("third", 13)), []),
        ((NEWER, one("web", state="exited"), one("third")), ["third"]),
        ((one("store", 20), one("web"), one("third")), []),
        ((one("store"), replace(NEWER, id="second"), one("web")), []),
    ],
    ids=["as it came up", "none", "one of them", "both", "stopped", "only started anew", "one more of it"],
)
def test_what_follows_a_service_starts_after_that_was_made(found: Sequence[Container], late: list[str]) -> None:
    assert overdue(FOLLOWS, found) == dict.fromkeys(late, "follows store, which was recreated")


def test_services_that_follow_each_other_in_a_circle_are_looked_at_once() -> None:
    circle = {"web": ("store",), "store": ("web",)}

    assert overdue(circle, (NEWER, one("web"))) == {"web": "follows store, which was recreated"}


@pytest.mark.parametrize(
    ("started", "cause"), [(1, {}), (5, {"side": "follows vpn, which has started anew"})], ids=["before", "since"]
)
def test_what_is_in_the_network_of_another_starts_after_that(started: float, cause: dict[str, str]) -> None:
    found = (one("vpn", started), one("side", joins=("id-vpn", "of another project")))

    assert overdue({"vpn": (), "side": ()}, found) == cause
    assert overdue({"vpn": (), "side": ()}, found, spared=("side",)) == cause


def observed(*found: Container, spared: Sequence[str] = ()) -> Observed:
    services = {
        name: Service(name, "image", frozenset({f"hash-{name}"}), follows=follows) for name, follows in FOLLOWS.items()
    }
    configuration = Configuration("p", services, (), ())
    return Observed("dev", configuration, found, {"image": "sha256:1"}, (), (), {}, spared=frozenset(spared))


def test_what_users_are_served_by_is_restarted_for_no_store_that_is_made_anew() -> None:
    plan = plan_up(observed(one("web"), one("third"), spared=("web",)))

    assert [(step.action, step.name) for step in plan if step.name in ("store", "web", "third")] == [
        ("create", "store")
    ]


def test_a_killed_replacement_is_seen_and_what_follows_is_restarted() -> None:
    seen = observed(NEWER, one("web"), one("third"), one("apart"))

    cause = "follows store, which was recreated"
    assert drift(seen) == {"web": cause, "third": cause}
    assert not is_well(seen)
    assert [(step.action, step.name, step.cause) for step in plan_up(seen)] == [
        ("restart", "web", cause), ("restart", "third", cause),
    ]  # fmt: skip
    spared = replace(seen, spared=frozenset({"web"}))
    assert (drift(spared), list(plan_up(spared))) == ({}, [])


def test_what_runs_is_restarted_where_what_it_follows_has_no_container() -> None:
    seen = observed(one("web"), one("third"), one("apart"))

    assert {step.name: step.action for step in plan_up(seen)} == {
        "store": "create", "web": "restart", "third": "restart",
    }  # fmt: skip


def test_a_container_says_what_it_follows_and_in_whose_network_it_is() -> None:
    told = {
        "Id": "1", "Name": "/p-web-1", "Image": "sha256:1", "State": {"Status": "running"},
        "Config": {"Image": "image", "Labels": {
            f"{LABEL}.depends_on": "cache:service_healthy:false,store:service_started:true,old:service_started",
        }},
        "HostConfig": {"NetworkMode": "container:abc", "PidMode": "", "IpcMode": "container:abc"},
    }  # fmt: skip

    assert (parse(told).follows, parse(told).joins) == (("store",), ("abc",))
    plain = {**told, "Config": {"Image": "image", "Labels": None}, "HostConfig": {"NetworkMode": "p_default"}}
    assert (parse(plain).follows, parse(plain).joins) == ((), ())


def test_a_glance_that_renders_no_file_sees_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    follower = one("web", labels={f"{LABEL}.depends_on": "store:service_started:true"})
    monkeypatch.setattr(observe, "look", lambda _: observe.Present((NEWER, follower), ()))
    monkeypatch.setattr(Compose, "hashes", lambda _: {"store": "hash-store", "web": "hash-web"})
    monkeypatch.setattr(images, "find", lambda *_: None)
    stack = stack_of("name: s\nenvironments: {dev: {compose: [compose.yaml]}}\n")

    seen = glance(stack, "dev", Compose(Engine(), "p", ()))

    assert seen is not None
    assert drift(seen) == {"web": "follows store, which was recreated"}


SLEEPS = "image: python:3.11-slim-bookworm, command: [sleep, infinity], init: true, stop_grace_period: 0s"
RESTARTS = "depends_on: {db: {condition: service_started, restart: true}}"
COMPOSE = f"""\
services:
  db: {{{SLEEPS}, environment: {{LEVEL: "${{LEVEL:-1}}"}}, volumes: [/data]}}
  app: {{{SLEEPS}, {RESTARTS}}}
  late: {{{SLEEPS}, {RESTARTS.replace("db", "app")}}}
  inside: {{{SLEEPS}, network_mode: "service:db"}}
  mounts: {{{SLEEPS}, volumes_from: [db]}}
  apart: {{{SLEEPS}, depends_on: [db]}}
"""


@pytest.mark.engine
def test_what_a_killed_env_up_has_not_come_to_is_seen_and_made_up_for(small: SmallStack, engine: Engine) -> None:
    small.write("compose/dev.yaml", COMPOSE)
    small.up()
    before = {one.service: one for one in small.containers(engine)}

    killed = warm.run(
        small.argv("env.up"), cwd=small.folder, env=small.environment(LEVEL="2"), capture_output=True, timeout=300,
        before="tests.faults.steps:kill_after_start", told="--no-deps db",
    )  # fmt: skip
    # Compose has outlived it, and comes to its end.
    left = [one for one in psutil.process_iter(["cmdline"]) if f"{small.name}-dev" in (one.info["cmdline"] or ())]
    psutil.wait_procs(left, timeout=300)
    status = small.invoke("env.status", "--env", "dev", LEVEL="2")
    planned = small.json("env.up", "--dry-run", LEVEL="2")["plan"]
    done = small.invoke("env.up", LEVEL="2")

    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert done.returncode == 0, done.stderr
    after = {one.service: one for one in small.containers(engine)}
    assert {name for name in before if before[name].id != after[name].id} == {"db", "inside", "mounts"}
    anew = {name for name in before if before[name].started_at != after[name].started_at}
    assert anew == {"db", "inside", "mounts", "app", "late"}
    assert after["inside"].joins == (after["db"].id,)
    assert status.returncode == 1
    assert status.stdout.count("follows db, which was recreated") == 2, status.stdout
    steps = {
        step["subject"].removeprefix("service "): step["action"] for step in planned if "service" in step["subject"]
    }
    assert steps == {"inside": "recreate", "mounts": "recreate", "app": "restart", "late": "restart"}
    again = small.invoke("env.up", LEVEL="2")
    assert "Nothing to do" in again.stdout, again.stdout
    assert small.invoke("env.status", "--env", "dev", LEVEL="2").returncode == 0


@pytest.mark.engine
def test_what_has_lost_the_network_that_it_was_in_gets_the_present_one(small: SmallStack, engine: Engine) -> None:
    """As a killed env.restart leaves it, and the engine's own restart of what has died."""
    small.write(
        "compose/dev.yaml", f'services: {{vpn: {{{SLEEPS}}}, side: {{{SLEEPS}, network_mode: "service:vpn"}}}}\n'
    )
    small.up()
    side, vpn = small.containers(engine)
    engine.client.api.restart(vpn.id, timeout=0)

    status = small.invoke("env.status", "--env", "dev")
    done = small.invoke("env.up")

    assert (status.returncode, "follows vpn, which has started anew" in status.stdout) == (1, True), status.stdout
    assert done.returncode == 0, done.stderr
    now, vpn = small.containers(engine)
    assert now.id == side.id
    assert str(now.started_at) > str(vpn.started_at) > str(side.started_at)
    assert small.invoke("env.status", "--env", "dev").returncode == 0
