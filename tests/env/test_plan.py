"""Decisions as values: what was observed, and the plan that follows."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from conche.engine.compose import Configuration
from conche.engine.containers import Container
from conche.engine.service import Service
from conche.env.observe import Observed
from conche.env.plan import drift, plan_down, plan_up
from conche.env.report import is_well, remarks, strays
from conche.env.trial import definition
from conche.outcome import Action, Kind, Plan, Step

OWN, THEIRS = "localhost:5000/app:develop", "influxdb:2.7"
WEB = Service("web", OWN, frozenset({"hash-web"}))
DB = Service("db", THEIRS, frozenset({"hash-db"}))


def container(service: str, **changes: Any) -> Container:
    image = OWN if service == "web" else THEIRS
    plain = Container(
        id=f"id-{service}", name=f"p-{service}-1", project="p", service=service, state="running", health="healthy",
        image=image, image_id=f"sha256:{image}", config_hash=f"hash-{service}",
    )  # fmt: skip
    return replace(plain, **changes)


UP = Observed(
    name="dev",
    configuration=Configuration("p", {"web": WEB, "db": DB}, ("outside",), ("kept",)),
    containers=(container("db"), container("web")),
    images={OWN: f"sha256:{OWN}", THEIRS: f"sha256:{THEIRS}"},
    missing_networks=(),
    leftovers=(),
    own={OWN: "app"},
)


def steps(plan: Plan) -> list[tuple[str, str, str]]:
    return [(step.action, step.subject, step.cause) for step in plan]


def test_what_is_up_and_healthy_needs_nothing() -> None:
    assert (steps(plan_up(UP)), drift(UP), is_well(UP)) == ([], {}, True)


def test_where_no_service_is_to_have_a_container_nothing_is_made() -> None:
    services = {"web": replace(WEB, replicas=0), "db": replace(DB, replicas=0)}
    seen = replace(UP, configuration=replace(UP.configuration, services=services), containers=())

    assert steps(plan_up(seen)) == []


@pytest.mark.parametrize(("pulled", "planned"), [(True, ["pull", "recreate"]), (False, [])])
def test_an_update_pulls_no_image_that_is_never_to_be_pulled(pulled: bool, planned: list[str]) -> None:
    services = {"web": WEB, "db": replace(DB, pulled=pulled)}
    seen = replace(UP, configuration=replace(UP.configuration, services=services))

    assert [step.action for step in plan_up(seen, only="db")] == planned


@pytest.mark.parametrize(("pulled", "planned"), [(True, "pull"), (False, "build")])
def test_an_update_builds_a_missing_image_of_this_stack_that_is_never_to_be_pulled(pulled: bool, planned: str) -> None:
    services = {"web": replace(WEB, pulled=pulled), "db": DB}
    images = {**UP.images, OWN: None}
    seen = replace(UP, images=images, configuration=replace(UP.configuration, services=services))

    assert (planned, OWN) in [(step.action, step.name) for step in plan_up(seen, only="web")]


def test_a_fresh_machine_needs_everything_in_order() -> None:
    fresh = replace(UP, containers=(), images={OWN: None, THEIRS: None}, missing_networks=("outside",))

    assert steps(plan_up(fresh)) == [
        ("create", "network outside", "no such network on the engine"),
        ("build", f"image {OWN}", "no such image on the engine"),
        ("pull", f"image {THEIRS}", "no such image on the engine"),
        ("create", "service web", "has no container"),
        ("create", "service db", "has no container"),
    ]
    assert (drift(fresh), is_well(fresh)) == ({}, False)


@pytest.mark.parametrize("one_shot", [replace(DB, ends=True), replace(DB, completes=True)], ids=["ends", "awaited"])
def test_what_has_ended_well_is_not_started_again(one_shot: Service) -> None:
    ended = container("db", state="exited", exit_code=0, health="none")
    configuration = replace(UP.configuration, services={"web": WEB, "db": one_shot})
    seen = replace(UP, configuration=configuration, containers=(ended, container("web")))

    assert (steps(plan_up(seen)), is_well(seen)) == ([], True)
    assert steps(plan_up(replace(seen, containers=(replace(ended, exit_code=3), container("web"))))) == [
        ("start", "service db", "is exited")
    ]


@pytest.mark.parametrize(
    ("changes", "action", "cause", "drifts"),
    [
        ({"config_hash": "older"}, "recreate", "its definition changed", True),
        ({"image_id": "sha256:older"}, "recreate", "its image changed", True),
        ({"state": "exited"}, "start", "is exited", False),
        ({"state": "created"}, "start", "is created", False),
        ({"health": "unhealthy"}, "restart", "is unhealthy", False),
        ({"health": "starting"}, "await", "is starting", False),
        ({"state": "restarting", "restarts": 7}, "restart", "has been restarted 7 times, and still fails", False),
        ({"state": "restarting", "restarts": 7, "config_hash": "older"}, "recreate", "its definition changed", True),
        (
            {"health": "starting", "restarts": 1, "started_at": datetime(2026, 1, 1, tzinfo=UTC)},
            "await", "has been restarted 1 time, and still fails", False,
        ),
        ({"state": "paused"}, "unpause", "is paused", False),
        ({"state": "paused", "config_hash": "older"}, "recreate", "its definition changed", True),
    ],
)  # fmt: skip
def test_one_difference_gives_one_step(changes: dict[str, Any], action: str, cause: str, drifts: bool) -> None:
    seen = replace(UP, containers=(container("db"), container("web", **changes)))

    assert steps(plan_up(seen)) == [(action, "service web", cause)]
    assert drift(seen) == ({"web": cause} if drifts else {})
    assert not is_well(seen)


@pytest.mark.parametrize("there", [True, False])
def test_an_update_builds_what_no_registry_has(there: bool) -> None:
    seen = replace(UP, unregistered=frozenset({OWN}), images={**UP.images, OWN: "sha256:1" if there else None})

    assert steps(plan_up(seen, only="web"))[0][:2] == ("build", f"image {OWN}")


def test_build_rebuilds_own_images_only_and_replaces_what_runs_from_them() -> None:
    assert steps(plan_up(UP, build=True)) == [
        ("build", f"image {OWN}", "asked for"),
        ("recreate", "service web", "its image is new"),
    ]


@pytest.mark.parametrize(("build", "action"), [(True, "build"), (False, "pull")])
def test_an_update_fetches_the_image_of_one_service_and_leaves_the_others(build: bool, action: str) -> None:
    other_stopped = replace(UP, containers=(container("db", state="exited"), container("web")))

    assert steps(plan_up(other_stopped, build=build, only="web")) == [
        (action, f"image {OWN}", "asked for"),
        ("recreate", "service web", "its image is new"),
    ]


def test_leftovers_of_a_trial_are_removed_first() -> None:
    seen = replace(UP, leftovers=(container("web", name="p-trial-web-1"),))

    assert steps(plan_up(seen)) == [("remove", "container p-trial-web-1", "left over from an interrupted trial")]
    assert steps(plan_down(seen, ()))[0] == ("remove", "container p-trial-web-1", "left over from an interrupted trial")


def test_a_container_of_no_file_is_drift() -> None:
    seen = replace(UP, containers=(*UP.containers, container("old")))

    assert drift(seen) == {"old": "is in no Compose file"}


def test_what_was_taken_out_of_the_files_is_named_with_the_command_that_removes_it() -> None:
    seen = replace(UP, containers=(*UP.containers, container("old", name="p-old-1")))

    [said] = strays(seen)

    assert said.startswith("p-old-1 belongs to the service old")
    assert said.endswith("Next: docker rm --force p-old-1")
    assert said in remarks(seen)
    assert strays(replace(seen, optional=frozenset({"old"}))) == []


def test_what_compose_run_has_made_is_named_and_no_fault() -> None:
    once = container("web", name="p-web-run-1", state="running", started_at=datetime(2026, 1, 2, tzinfo=UTC))
    seen = replace(UP, oneoff=(once, replace(once, name="p-web-run-2", state="exited")))

    running, exited = remarks(seen)
    made = "was made by docker compose run of web"
    assert running == (
        f"p-web-run-1 {made}, running since 2026-01-02 00:00:00 UTC. Next: docker rm --force p-web-run-1"
    )
    assert exited == f"p-web-run-2 {made}. Next: docker rm --force p-web-run-2"
    assert (is_well(seen), drift(seen), steps(plan_up(seen))) == (True, {}, [])


def test_down_stops_every_service_and_deletes_only_what_it_is_given() -> None:
    assert [(str(step), step.destroys) for step in plan_down(UP, ("kept",))] == [
        ("stop service db", False),
        ("stop service web", False),
        ("delete volume kept", True),
    ]


def test_a_node_leaves_its_tailnet_before_anything_stops() -> None:
    leaves = Step(Action.LOG_OUT, Kind.NODE, "dev.net.ts.net", "its volume is deleted", destroys=True)

    assert [str(step) for step in plan_down(UP, ("kept",), leaving=[leaves])] == [
        "log-out node dev.net.ts.net",
        "stop service db",
        "stop service web",
        "delete volume kept",
    ]


def test_a_trial_has_no_port_no_fixed_name_and_makes_neither_network_nor_volume() -> None:
    rendered = {
        "services": {
            "web": {
                "image": OWN,
                "ports": [1],
                "container_name": "x",
                "restart": "always",
                "volumes": ["kept:/kept"],
                "networks": {"inside": {"ipv4_address": "10.0.0.2", "aliases": ["web"]}},
            },
            "db": {"image": THEIRS},
        },
        "networks": {"outside": {"name": "real-outside", "external": True}, "inside": {"name": "p_inside"}},
        "volumes": {"kept": {"name": "real-kept"}, "new": {"name": "not-yet"}},
        "secrets": {"token": {"file": "/x"}},
    }
    configuration = replace(UP.configuration, rendered=rendered)

    assert definition(configuration, "web", {"real-outside", "p_inside", "real-kept"}) == {
        "name": "p-trial",
        "services": {"web-trial": {"image": OWN, "volumes": ["kept:/kept"], "networks": {"inside": None}}},
        "networks": {
            "outside": {"name": "real-outside", "external": True},
            "inside": {"name": "p_inside", "external": True},
        },
        "volumes": {"kept": {"name": "real-kept", "external": True}, "new": None},
        "secrets": {"token": {"file": "/x"}},
    }
    assert rendered["services"]["web"]["ports"] == [1]  # type: ignore[index]


def test_a_one_shot_that_ended_well_is_done_and_one_that_failed_starts_again() -> None:
    once = replace(WEB, ends=True)
    configuration = replace(UP.configuration, services={"web": once, "db": DB})
    ended = replace(UP, configuration=configuration, containers=(container("db"), container("web", state="exited")))
    failed = replace(ended, containers=(container("db"), replace(container("web", state="exited"), exit_code=3)))

    assert (steps(plan_up(ended)), is_well(ended)) == ([], True)
    assert (steps(plan_up(failed)), is_well(failed)) == ([("start", "service web", "is exited")], False)


@pytest.mark.parametrize("changed", [(), ("db",), ("gone",)], ids=["nothing", "its definition", "no container"])
def test_what_shares_with_a_service_that_is_made_anew_is_made_anew_too(changed: tuple[str, ...]) -> None:
    sidecar = replace(WEB, name="web", shares=("db",))
    there = [container("web"), container("db", config_hash="other" if changed else "hash-db")]
    seen = replace(
        UP,
        configuration=Configuration("p", {"db": DB, "web": sidecar}, (), ()),
        containers=tuple(one for one in there if changed != ("gone",) or one.service == "web"),
    )

    cause = "shares resources of db, which is recreated"
    assert drift(seen).get("web") == (cause if changed else None)
    planned = [(step.action, step.name, step.cause) for step in plan_up(seen)]
    assert planned[1:] == ([("recreate", "web", cause)] if changed else [])
    assert is_well(seen) is not bool(changed)


@pytest.mark.parametrize(
    ("state", "health", "planned"),
    [
        ("running", "healthy", []),
        ("running", "unhealthy", [("restart", "db"), ("restart", "web"), ("restart", "third")]),
        ("exited", "none", [("start", "db"), ("restart", "web"), ("restart", "third")]),
        ("running", "starting", [("await", "db")]),
    ],
)
def test_what_follows_a_service_is_restarted_once_that_starts_anew(
    state: str, health: str, planned: list[tuple[str, str]]
) -> None:
    web, third = replace(WEB, follows=("db",)), replace(DB, name="third", follows=("web",))
    down = replace(third, name="down")
    seen = replace(
        UP,
        configuration=Configuration("p", {"db": DB, "web": web, "third": third, "down": down}, (), ()),
        containers=(
            container("db", state=state, health=health), container("web"), container("third", config_hash="hash-db"),
            container("down", config_hash="hash-db", state="exited"),
        ),
    )  # fmt: skip

    found = [(step.action, step.name) for step in plan_up(seen) if step.name != "down"]

    assert found == planned


def test_an_update_of_what_others_share_makes_those_anew_too_and_no_others() -> None:
    sidecar, third = replace(WEB, shares=("db",)), replace(WEB, name="third", hashes=frozenset({"new"}))
    seen = replace(
        UP,
        configuration=Configuration("p", {"db": DB, "web": sidecar, "third": third}, (), ()),
        containers=(*UP.containers, container("third")),
    )

    assert steps(plan_up(seen, only="db"))[1:] == [
        ("recreate", "service db", "its image is new"),
        ("recreate", "service web", "shares resources of db, which is recreated"),
    ]
    assert [subject for _, subject, _ in steps(plan_up(seen, only="web"))][1:] == ["service web"]
