"""Services of a swarm as the managers tell them: what counts of tasks that ended, moved, or are on dead nodes."""

from __future__ import annotations

from typing import Any

import pytest

from conche.engine import task_containers
from conche.engine.swarm import Node, observed
from conche.errors import NotFound, Refused

NODES = {
    "n1": Node("first", "10.0.0.1", up=True),
    "n2": Node("second", "10.0.0.2", up=True),
    "dead": Node("third", "10.0.0.3", up=False),
}
CONTENT = {"Image": "app:1"}


def service(*, replicas: int | None = 1, condition: str = "", update: str = "") -> dict[str, Any]:
    template: dict[str, Any] = {"ContainerSpec": CONTENT}
    if condition:
        template["RestartPolicy"] = {"Condition": condition}
    mode = {"Global": {}} if replicas is None else {"Replicated": {"Replicas": replicas}}
    status = {"UpdateStatus": {"State": update, "Message": "m"}} if update else {}
    return {"ID": "s", "Spec": {"Name": "shop_web", "TaskTemplate": template, "Mode": mode}, **status}


def task(state: str, node: str = "n1", *, at: int = 1, err: str = "", **said: Any) -> dict[str, Any]:
    """A task; `said` may have the image, the slot and what is desired of it."""
    return {
        "ServiceID": "s",
        "NodeID": node,
        "Slot": said.get("slot", 1),
        "DesiredState": said.get("desired", "running"),
        "Status": {"State": state, "Err": err},
        "Spec": {"ContainerSpec": {"Image": said.get("image", "app:1")}},
        "CreatedAt": f"2026-01-01T00:00:{at:02}Z",
        "UpdatedAt": f"2026-01-01T00:00:{at:02}Z",
    }


def seen(said: dict[str, Any], *told: dict[str, Any]) -> Any:
    return observed(said, told, NODES, "shop")


def test_what_runs_is_counted_apart_from_what_is_still_ending() -> None:
    one = seen(
        service(replicas=2),
        task("running"),
        task("running", slot=2),
        task("running", image="app:0", desired="shutdown"),
    )

    assert (one.name, one.wanted, one.running, one.others, one.settled) == ("web", 2, 2, 1, False)


def test_tasks_of_a_node_that_is_down_count_no_more_and_are_told() -> None:
    left = task("running", "dead", desired="shutdown")
    one = seen(service(update="completed"), left, task("running", "n2", at=2))

    assert (one.running, one.others, one.settled, one.unreachable) == (1, 0, True, ("third",))


def test_a_task_on_a_dead_node_is_not_what_serves_though_swarm_has_not_moved_it_yet() -> None:
    one = seen(service(), task("running", "dead"))

    assert (one.running, one.settled, one.unreachable) == (0, False, ("third",))


def test_tasks_of_a_node_that_was_removed_count_no_more() -> None:
    one = seen(service(), task("running", "removed", desired="shutdown"), task("running", at=2))

    assert (one.settled, one.unreachable) == (True, ())


@pytest.mark.parametrize(
    ("condition", "state", "done", "broken", "settled"),
    [
        ("none", "complete", 1, False, True),
        ("on-failure", "complete", 1, False, True),
        ("any", "complete", 0, False, False),
        ("", "complete", 0, False, False),
        ("none", "failed", 0, True, False),
        ("on-failure", "failed", 0, False, False),
    ],
)
def test_a_task_that_has_ended(condition: str, state: str, done: int, *, broken: bool, settled: bool) -> None:
    one = seen(service(condition=condition), task(state, desired="shutdown"))

    assert (one.done, one.broken, one.settled) == (done, broken, settled)


def test_a_task_of_an_earlier_definition_that_ended_well_does_not_count() -> None:
    assert not seen(service(condition="none"), task("complete", desired="shutdown", image="app:0")).settled


def test_only_the_newest_task_of_each_place_tells_how_it_ended() -> None:
    told = (task("failed", desired="shutdown"), task("complete", desired="shutdown", at=2))

    one = seen(service(condition="none"), *told)

    assert (one.done, one.broken) == (1, False)


def test_no_task_is_wanted_where_none_is_asked_for() -> None:
    assert seen(service(replicas=0)).settled


def test_where_every_node_has_one_as_many_are_wanted_as_swarm_wants() -> None:
    places: list[dict[str, Any]] = [{**task("running", node), "Slot": 0} for node in ("n1", "n2")]

    assert seen(service(replicas=None), *places).settled
    assert not seen(service(replicas=None), places[0], {**places[1], "Status": {"State": "starting"}}).settled
    # Fit for no node at all it does nothing, which nobody asks for.
    assert not seen(service(replicas=None)).settled


def test_why_a_task_finds_no_node_is_told() -> None:
    one = seen(service(), task("pending", "", err="no suitable node"), task("failed", err="exit (1)", at=2))

    assert one.errors == ("exit (1)", "no suitable node")


class Told:
    """An engine that has no container of the service, and tells of these tasks."""

    address = "unix:///here"

    def __init__(self, *told: dict[str, Any]) -> None:
        self.client = self.api = self
        self.told = told

    def containers(self, **_: object) -> list[object]:
        return []

    def tasks(self, **_: object) -> tuple[dict[str, Any], ...]:
        return self.told

    def nodes(self) -> list[dict[str, Any]]:
        return [
            {"ID": id_, "Description": {"Hostname": node.name}, "Status": {"State": "ready" if node.up else "down"}}
            for id_, node in NODES.items()
        ]


def test_what_runs_on_another_node_is_refused_with_the_nodes_name() -> None:
    with pytest.raises(Refused, match="web runs on second, but a command inside it needs") as refused:
        task_containers.of_service(Told(task("running", "n2")), "shop", "web", "a command inside it")  # type: ignore[arg-type]

    assert refused.value.code == "not-on-swarm"
    assert "docker --host ssh://second" in refused.value.next_command


def test_what_runs_nowhere_is_said_to() -> None:
    with pytest.raises(NotFound, match="No task of web runs"):
        task_containers.of_service(Told(task("running", "dead")), "shop", "web", "a dump")  # type: ignore[arg-type]
