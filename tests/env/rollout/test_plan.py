"""What becomes of each service, and the steps of a release: compared as values."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from conche.engine.compose import Configuration
from conche.engine.containers import Container
from conche.engine.rendered import Healthcheck
from conche.engine.service import Service
from conche.engine.swarm import Replicated
from conche.env.rollout.change import Change
from conche.env.rollout.plan import Intent, Transition, changes, named, plan_release, table
from conche.env.rollout.swarm_stack import swarm_changes
from conche.release.records import Placed, Record
from conche.stack import Deploy

WEB, STORE, EDGE = "own/web@sha256:1", "database:1", "nginx:1"
BEHIND = Deploy(edge="edge", serves="web", observe=5)


def service(name: str, image: str, **said: Any) -> Service:
    return Service(name, image, frozenset({f"hash of {name}"}), healthcheck=Healthcheck(30, 10, 3, 40), **said)


def configuration(*services: Service) -> Configuration:
    return Configuration("x-prod", {one.name: one for one in services}, (), ())


ALL = configuration(service("store", STORE), service("web", WEB), service("edge", EDGE))


def container(name: str, *, state: str = "running", health: str = "healthy", made_from: str = "") -> Container:
    return Container(
        name, name, "x-prod", name, state, health, "image", "sha256:0", made_from or f"hash of {name}"
    )  # fmt: skip


RUNNING = (container("store"), container("web"), container("edge"))


def record(number: int = 2, **definitions: str) -> Record:
    images = {"store": STORE, "web": WEB, "edge": EDGE}
    placed = {
        name: Placed(images[name], "sha256:0", "", definitions.get(name, "as it was"), (f"hash of {name}",))
        for name in images
    }
    return Record(
        number, "prod", "deploy", "2026-01-01T00:00:00Z", "who", "where", "", "abc", dirty=False, services=placed
    )


def strategies(found: tuple[Change, ...]) -> dict[str, str]:
    return {one.service: one.strategy for one in found}


def test_what_is_as_it_was_is_kept_and_there_are_no_steps() -> None:
    found = changes(Intent(ALL, record(2), BEHIND, (WEB,)), RUNNING, record(1))

    assert strategies(found) == {"store": "keep", "web": "keep", "edge": "keep"}
    assert plan_release(Transition("r2", "r1", found), BEHIND).steps == ()


@pytest.mark.parametrize(("state", "strategy"), [("exited", "recreate"), ("running", "keep")])
def test_what_shares_with_a_service_that_starts_anew_is_made_anew(state: str, strategy: str) -> None:
    shared = configuration(service("store", STORE), service("web", WEB), service("edge", EDGE, shares=("store",)))
    found = (container("store", state=state), container("web"), container("edge"))

    assert strategies(changes(Intent(shared, record(2), BEHIND, (WEB,)), found, record(1)))["edge"] == strategy


def test_only_what_the_edge_serves_is_forced() -> None:
    found = changes(Intent(ALL, record(2), BEHIND, (WEB,), forced=True), RUNNING, record(1))

    assert strategies(found) == {"store": "keep", "web": "beside", "edge": "keep"}
    assert next(one for one in found if one.service == "web").cause == "asked for"


def test_a_first_release_makes_everything_and_stops_nothing() -> None:
    found = changes(Intent(ALL, record(1), BEHIND, (WEB,)), (), None)
    plan = plan_release(Transition("r1", "nothing", found, {"web": 2}), BEHIND)

    assert [str(step) for step in plan] == [
        "record release r1",
        "create service store",
        "create service edge",
        "start release r1 of web",
        "await release r1 of web",
        "probe release r1 of web",
        "switch edge to r1",
        "drain edge from nothing",
        "watch release r1 of web",
        "commit release r1",
    ]
    assert plan.steps[3].cause == "was never deployed; 2 beside nothing"


def test_a_later_release_starts_beside_switches_and_then_removes_the_old_one() -> None:
    deploy = replace_deploy(BEHIND, release_command=("migrate",))
    found = changes(Intent(ALL, record(2, web="new"), deploy, (WEB,)), RUNNING, record(1))
    plan = plan_release(Transition("r2", "r1", found, {}, ("outside",)), deploy)

    assert [(str(step), bool(step.undo)) for step in plan] == [
        ("record release r2", False),
        ("create network outside", True),
        ("run release-command", False),
        ("start release r2 of web", True),
        ("await release r2 of web", False),
        ("probe release r2 of web", False),
        ("switch edge to r2", True),
        ("drain edge from r1", False),
        ("watch release r2 of web", False),
        ("commit release r2", False),
        ("stop release r1 of web", False),
        ("remove release r1 of web", False),
    ]


@pytest.mark.parametrize(
    ("before", "now", "cause"),
    [
        (record(1), record(2, store="new"), "its definition changed"),
        (replace(record(1), services={}), record(2), "was never deployed"),
    ],
)
def test_a_store_is_recreated_only_for_a_reason_of_its_own(before: Record, now: Record, cause: str) -> None:
    changed = (container("store", made_from="another hash"), *RUNNING[1:])

    found = changes(Intent(ALL, now, BEHIND, (WEB,)), changed, before)

    store = found[0]
    assert (store.strategy, store.cause) == ("recreate", cause)
    assert store.downtime == "it stops first; up to 160 s until it is healthy"
    assert strategies(found)["web"] == "beside"


def test_a_store_that_another_compose_has_made_is_kept() -> None:
    """Each version of Compose computes hashes of its own: the record knows those of the one that made it."""
    before = record(1)
    hashed = {**before.services, "store": replace(before.services["store"], hashes=("as another Compose says",))}
    running = (container("store", made_from="as another Compose says"), *RUNNING[1:])
    known = record(2, web="new").known_as(replace(before, services=hashed))

    found = changes(Intent(ALL, known, BEHIND, (WEB,)), running, before)

    assert strategies(found) == {"store": "keep", "web": "beside", "edge": "keep"}
    assert set(known.services["store"].hashes) == {"hash of store", "as another Compose says"}
    assert known.services["web"].hashes == ("hash of web",)


@pytest.mark.parametrize(
    ("running", "strategy", "cause"),
    [
        ((), "create", "has no container"),
        ((container("store", state="exited"),), "start", "is exited"),
        ((container("store", state="paused"),), "start", "is paused"),
        ((container("store", made_from="by hand"),), "recreate", "runs a different definition"),
    ],
)
def test_a_store_that_is_not_as_recorded_is_put_right(
    running: tuple[Container, ...], strategy: str, cause: str
) -> None:
    found = changes(Intent(ALL, record(2), BEHIND, (WEB,)), (*running, *RUNNING[1:]), record(1))

    assert (found[0].strategy, found[0].cause) == (strategy, cause)


@pytest.mark.parametrize(
    ("state", "exit_code", "strategy"),
    [("exited", 0, "keep"), ("exited", 137, "start"), ("paused", 0, "start"), ("created", 0, "start")],
)
def test_a_one_shot_is_started_again_unless_it_has_ended_well(state: str, exit_code: int, strategy: str) -> None:
    once = Configuration("x-prod", {"store": service("store", STORE, ends=True)}, (), ())
    running = (replace(container("store", state=state), exit_code=exit_code),)

    found = changes(Intent(once, record(2), BEHIND, (WEB,)), running, record(1))

    assert [(one.strategy, one.cause) for one in found] == [(strategy, "" if strategy == "keep" else f"is {state}")]


@pytest.mark.parametrize(
    ("state", "health", "cause"), [("exited", "none", "is exited"), ("running", "unhealthy", "is unhealthy")]
)
def test_what_serves_and_is_ill_is_released_anew(state: str, health: str, cause: str) -> None:
    running = (RUNNING[0], container("web", state=state, health=health), RUNNING[2])

    found = changes(Intent(ALL, record(2), BEHIND, (WEB,)), running, record(1))

    assert (found[1].strategy, found[1].cause) == ("beside", cause)


def test_without_an_edge_own_images_are_tried_and_replaced() -> None:
    found = changes(Intent(ALL, record(2, web="new"), Deploy(), (WEB,)), RUNNING, record(1))
    plan = plan_release(Transition("r2", "r1", found), Deploy())

    assert strategies(found) == {"store": "keep", "web": "replace", "edge": "keep"}
    assert [str(step) for step in plan] == ["record release r2", "replace service web", "commit release r2"]


def test_the_table_says_what_its_users_notice() -> None:
    found = changes(Intent(ALL, record(2, web="new"), BEHIND, (WEB,)), RUNNING, record(1))

    shown = table(found, ALL, "r1 to r2")

    assert shown.rows[1] == ("web", "beside", "web@1", "its definition changed", "none")
    assert shown.title == "r1 to r2"


def replace_deploy(deploy: Deploy, **said: Any) -> Deploy:
    return deploy.model_copy(update=said)


def test_a_changed_definition_is_told_by_the_names_of_its_keys() -> None:
    intent = Intent(
        ALL, record(2, web="new"), BEHIND, (WEB,), altered={"web": ("environment.LEVEL", "image")},
    )  # fmt: skip
    found = changes(intent, RUNNING, record(1))

    assert {one.service: one.cause for one in found if one.cause} == {
        "web": "its definition changed: environment.LEVEL, image"
    }


def test_what_shares_with_a_service_that_is_made_anew_is_made_anew_after_it() -> None:
    sharing = configuration(
        service("store", STORE), service("web", WEB), service("edge", EDGE, shares=("store",), tries=False)
    )
    other = (container("store", made_from="another"), *RUNNING[1:])

    found = changes(Intent(sharing, record(2, store="new"), Deploy(), ()), other, record(1))

    assert strategies(found) == {"store": "recreate", "web": "keep", "edge": "recreate"}
    assert found[-1].cause == "shares resources of store, which is recreated"
    kept = changes(Intent(sharing, record(2), Deploy(), ()), RUNNING, record(1))
    assert strategies(kept) == {"store": "keep", "web": "keep", "edge": "keep"}


def test_on_a_swarm_too_the_cause_names_what_has_changed_and_no_value() -> None:
    rendered = {"services": {"store": {"configs": [{"source": "rules"}]}, "web": {}, "edge": {}}}
    wanted = replace(
        record(2, store="new", web="new"), contents={"config rules": "now"},
        services={**record(2, store="new", web="new").services, "late": record(2).services["edge"]},
    )  # fmt: skip
    before = replace(record(1), contents={"config rules": "then"})
    edge = replace(wanted.services["edge"], image="nginx:2", definition="new")
    wanted = replace(wanted, services={**wanted.services, "edge": edge})
    running = [Replicated(one, one, "image", 1, 1, 0, "", "", (), {}) for one in wanted.services]

    altered = {"web": ("environment.LEVEL", "deploy.replicas")}
    found = named(
        swarm_changes(running, wanted, before, forced=False),
        Intent(replace(ALL, rendered=rendered), wanted, Deploy(), (), altered=altered), before,
    )  # fmt: skip

    assert {one.service: one.cause for one in found} == {
        "store": "config rules changed",
        "web": "its definition changed: environment.LEVEL, deploy.replicas",
        "edge": "its image changed",
        "late": "was never deployed",
    }
    assert {one.strategy for one in found} == {"update"}


FOLLOWING = configuration(
    service("store", STORE), service("web", WEB, follows=("store",)), service("edge", EDGE, follows=("web",))
)


def test_what_follows_a_service_is_restarted_after_it_and_so_on() -> None:
    other = (container("store", made_from="another"), *RUNNING[1:])

    found = changes(Intent(FOLLOWING, record(2, store="new"), Deploy(), ()), other, record(1))

    assert strategies(found) == {"store": "recreate", "web": "restart", "edge": "restart"}
    assert [one.cause for one in found][1:] == ["follows store, which starts anew", "follows web, which starts anew"]
    steps = [
        step for step in plan_release(Transition("r2", "r1", found), Deploy()) if step.name in ("store", "web", "edge")
    ]
    assert [(step.action, step.name) for step in steps] == [
        ("recreate", "store"), ("restart", "web"), ("restart", "edge"),
    ]  # fmt: skip


def test_what_a_killed_release_had_replaced_is_followed_by_the_next_one() -> None:
    found = changes(Intent(FOLLOWING, record(2, store="new"), Deploy(), ()), RUNNING, record(1))

    assert strategies(found) == {"store": "keep", "web": "restart", "edge": "restart"}


def test_neither_the_edge_nor_what_it_serves_is_restarted_for_what_they_follow() -> None:
    other = (container("store", made_from="another"), *RUNNING[1:])

    found = changes(Intent(FOLLOWING, record(2, store="new"), BEHIND, ()), other, record(1))

    assert strategies(found) == {"store": "recreate", "web": "beside", "edge": "keep"}


@pytest.mark.parametrize("state", ["exited", "created"])
def test_what_does_not_run_is_started_and_not_restarted(state: str) -> None:
    other = (container("store", made_from="another"), container("web", state=state), container("edge"))

    found = changes(Intent(FOLLOWING, record(2, store="new"), Deploy(), ()), other, record(1))

    assert strategies(found)["web"] == "start"
