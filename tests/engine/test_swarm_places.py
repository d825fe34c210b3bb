"""On which node a swarm's service has its data, as the managers tell of its tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from conche.engine import swarm_places
from conche.errors import Refused

HERE, SECOND, GONE = "n1", "n2", "n3"


def volume(name: str = "shop_data", **more: object) -> dict[str, Any]:
    return {"Type": "volume", "Source": name, "Target": "/data", **more}


def folder(path: str, **more: object) -> dict[str, Any]:
    return {"Type": "bind", "Source": path, "Target": "/data", **more}


def service(
    *mounts: dict[str, Any], name: str = "shop_db", replicas: int | None = 1, constraints: Sequence[str] = ()
) -> dict[str, Any]:
    mode = {"Global": {}} if replicas is None else {"Replicated": {"Replicas": replicas}}
    template = {
        "ContainerSpec": {"Image": "x", "Mounts": list(mounts)},
        "Placement": {"Constraints": list(constraints)},
        "RestartPolicy": {"Condition": "on-failure"},
    }
    labels = {"com.docker.stack.namespace": "shop"}
    return {"ID": name, "Spec": {"Name": name, "Labels": labels, "TaskTemplate": template, "Mode": mode}}


def task(
    state: str, node: str, *, at: int = 1, slot: int | None = 1, of: str = "shop_db", desired: str = "running"
) -> dict[str, Any]:
    return {
        "ServiceID": of, "NodeID": node, "Slot": slot, "Status": {"State": state}, "DesiredState": desired,
        "CreatedAt": f"2026-01-01T00:00:{at:02}Z", "Spec": service(volume())["Spec"]["TaskTemplate"],
    }  # fmt: skip


class Manager:
    """An engine that tells of these services and tasks, and has this volume."""

    address, is_local = "tcp://manager", False

    def __init__(self, services: list[dict[str, Any]], *tasks: dict[str, Any], **volume: object) -> None:
        self.client = self.api = self
        self._services, self._tasks = services, list(tasks)
        self.labels: dict[str, str] = {}
        self.known = {HERE: ("first", "ready"), SECOND: ("second", "ready"), GONE: ("third", "down")}
        self._volume = {"Name": "shop_data", "Mountpoint": "/var/lib/docker/volumes/shop_data/_data", **volume}

    def info(self) -> dict[str, Any]:
        return {"Swarm": {"ControlAvailable": True, "NodeID": HERE}}

    def services(self) -> list[dict[str, Any]]:
        return self._services

    def tasks(self, filters: dict[str, str] | None = None) -> list[dict[str, Any]]:
        return [one for one in self._tasks if filters is None or one["ServiceID"] == filters["service"]]

    def nodes(self) -> list[dict[str, Any]]:
        return [
            {
                "ID": id_, "Description": {"Hostname": name}, "Status": {"State": state},
                "Spec": {"Role": "manager" if id_ == HERE else "worker", "Labels": self.labels if id_ == HERE else {}},
            }
            for id_, (name, state) in self.known.items()
        ]  # fmt: skip

    def volumes(self) -> dict[str, Any]:
        return {"Volumes": [self._volume]}

    def inspect_volume(self, _: str) -> dict[str, Any]:
        return self._volume


def refusal(manager: Manager, place: str = "shop_data") -> str:
    try:
        swarm_places.require_here(manager, place)  # type: ignore[arg-type]
    except Refused as refused:
        return f"{refused.code}: {refused.message} {refused.next_command}"
    return ""


@pytest.mark.parametrize(
    ("tasks", "named"),
    [
        ([task("running", HERE)], ""),
        ([task("running", SECOND)], "second"),
        ([task("shutdown", HERE), task("running", SECOND, at=2)], "second"),
        ([task("shutdown", SECOND), task("running", HERE, at=2)], ""),
        ([task("shutdown", HERE), task("preparing", SECOND, at=2)], "second"),
        ([task("running", HERE), task("running", SECOND, slot=2)], "second"),
        ([task("running", GONE)], "third"),
        ([task("running", GONE), task("pending", "", at=2)], "third"),
        ([task("failed", SECOND)], "second"),
        ([task("running", HERE), task("rejected", SECOND, at=2)], ""),
        ([task("running", "removed")], "removed"),
        ([task("running", HERE), task("running", SECOND, of="shop_web")], ""),
    ],
)  # fmt: skip
def test_the_node_on_which_a_task_ran_last_has_the_data(tasks: list[dict[str, Any]], named: str) -> None:
    said = refusal(Manager([service(volume())], *tasks))

    assert (named in said, said.startswith("volume-elsewhere")) == (True, bool(named))


def test_one_on_each_node_has_data_on_each() -> None:
    every = [task("running", node, slot=None) for node in (HERE, SECOND)]

    assert "shop_db also uses shop_data on second" in refusal(Manager([service(volume(), replicas=None)], *every))


@pytest.mark.parametrize(
    ("constraints", "held"),
    [
        ([], False),
        (["node.hostname == first"], True),
        (["node.hostname==first"], True),
        ([f"node.id == {HERE}"], True),
        (["node.role == manager"], True),
        (["node.role != worker"], True),
        (["node.role == worker"], False),
        (["node.hostname != second"], False),
        (["node.hostname != second", "node.hostname != third"], True),
        (["node.labels.disk == fast"], True),
        (["node.labels.disk == slow"], False),
        (["node.labels.disk != slow"], False),
        (["engine.labels.disk == fast"], False),
        (["node.platform.os == linux"], False),
    ],
)
def test_where_data_are_of_what_has_no_task_is_known_only_if_it_can_run_nowhere_else(
    constraints: list[str], held: bool
) -> None:
    manager = Manager([service(volume(), replicas=0, constraints=constraints)])
    manager.labels = {"disk": "fast"}

    said = refusal(manager)

    assert said.startswith("volume-elsewhere") != held
    assert (f"docker service update --constraint-add node.id=={HERE} shop_db" in said) != held


def test_without_other_nodes_data_are_here_and_beside_one_that_has_run_here_too() -> None:
    alone, beside = Manager([service(volume(), replicas=0)]), Manager(
        [service(volume(), replicas=0), service(volume(), name="shop_web")], task("running", HERE, of="shop_web")
    )  # fmt: skip
    alone.known = {HERE: ("first", "ready")}

    assert (refusal(alone), refusal(beside)) == ("", "")


@pytest.mark.parametrize(
    ("tasks", "ended", "well"),
    [
        ([], False, False),
        ([task("running", HERE)], False, True),
        ([task("starting", HERE)], False, False),
        ([task("complete", HERE, desired="shutdown")], True, True),
        ([task("failed", HERE, desired="shutdown")], True, False),
        ([task("failed", HERE)], False, False),
        ([task("shutdown", HERE, desired="shutdown")], False, False),
        ([task("shutdown", HERE, desired="remove")], False, False),
        ([task("failed", HERE, desired="shutdown"), task("complete", HERE, desired="shutdown", at=2)], True, True),
        ([task("failed", HERE, desired="shutdown"), task("ready", HERE, desired="ready", at=2)], False, False),
        ([task("complete", HERE, desired="shutdown"), task("running", HERE, slot=2)], False, False),
    ],
)
def test_a_service_has_ended_once_no_task_of_it_runs_or_is_to_run(
    tasks: list[dict[str, Any]], ended: bool, well: bool
) -> None:
    manager: Any = Manager([service(volume())], *tasks)

    [one] = swarm_places.using(manager, "shop_data")

    assert (one.ended, one.well) == (ended, well)


@pytest.mark.parametrize(
    ("mount", "place", "uses"),
    [
        (volume("other"), "shop_data", False),
        (volume(ReadOnly=True), "shop_data", True),
        (folder("/var/lib/docker/volumes"), "shop_data", False),
        (folder("/var/lib/docker/volumes/shop_data/_data/deep"), "shop_data", True),
        (folder("/srv/shop"), "/srv/shop", True),
        (folder("/srv"), "/srv/shop", True),
        (folder("/srv", ReadOnly=True), "/srv/shop", False),
        ({"Type": "tmpfs", "Target": "/t"}, "shop_data", False),
    ],
)
def test_who_uses_a_place_is_told_by_the_mounts(mount: dict[str, Any], place: str, uses: bool) -> None:
    manager: Any = Manager([service(mount)], task("running", SECOND))

    assert [one.name for one in swarm_places.using(manager, place)] == ["shop_db"] * uses
    assert bool(refusal(manager, place)) == uses


@pytest.mark.parametrize(
    ("described", "shared"),
    [
        ({}, False),
        ({"Scope": "global", "Driver": "rexray"}, True),
        ({"Options": {"type": "nfs", "o": "addr=10.0.0.1", "device": ":/export"}}, True),
        ({"Options": {"type": "none", "o": "bind", "device": "/srv/data"}}, False),
    ],
)
def test_a_volume_that_every_node_reaches_is_here_too(described: dict[str, Any], shared: bool) -> None:
    manager = Manager([service(volume())], task("running", SECOND), **described)

    assert bool(refusal(manager)) != shared


def test_a_task_that_is_still_ending_is_waited_for_but_not_on_a_node_that_does_not_answer() -> None:
    manager: Any = Manager(
        [], task("running", HERE), task("running", GONE, of="shop_web"), task("shutdown", HERE, at=2)
    )

    def ends(_: float) -> None:
        del manager._tasks[0]

    assert swarm_places.wait_resting(manager, ["shop_web"], 0) == []
    assert swarm_places.wait_resting(manager, ["shop_db"], 0) == ["shop_db"]
    assert swarm_places.wait_resting(manager, ["shop_db"], 60, ends) == []
