"""A node is logged out of its tailnet before the volume with its state is deleted."""

from __future__ import annotations

import contextlib
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conche.command import Invocation
from conche.engine import containers, networks, programs, swarm, task_containers
from conche.engine.compose import Compose
from conche.engine.connection import Engine
from conche.engine.containers import Container
from conche.engine.tailnet import Sidecar
from conche.env import leaving
from conche.env.down import leaving_here
from conche.env.leaving import LeavingNode, log_out, nodes
from conche.env.rollout import swarm_view
from conche.env.rollout.swarm_view import down_swarm
from conche.errors import Unreachable
from conche.output import Output
from conche.process import Captured, Completed
from conche.session import Session

IMAGE = "tailscale/tailscale:v1"
SIDE = Container("1", "p-side-1", "p", "side", "running", "healthy", IMAGE, "i", "h")
STATE = {"type": "volume", "source": "state", "target": "/var/lib/tailscale"}
KEY = {"type": "bind", "source": "state", "target": "/run/secrets/key"}
ON_IT = LeavingNode("side", "shop_state", "dev-1", SIDE, "dev-1.net.ts.net")


def rendered(**side: Any) -> dict[str, Any]:
    web = {"image": "shop/web:1", "volumes": [STATE]}
    return {
        "services": {"side": {"image": IMAGE, "hostname": "dev", "volumes": [KEY, STATE], **side}, "web": web},
        "volumes": {"state": {"name": "shop_state"}, "other": {"name": "shop_other"}},
    }


@pytest.mark.parametrize(
    ("said", "volumes", "found"),
    [
        (rendered(), ["shop_state"], [LeavingNode("side", "shop_state", "dev")]),
        (rendered(hostname=None), ["shop_state"], [LeavingNode("side", "shop_state", "side")]),
        (rendered(), ["shop_other"], []),
        (rendered(volumes=[KEY]), ["shop_state"], []),
        (rendered(volumes=None), ["shop_state"], []),
        (rendered(image="shop/tailscale-exporter:1"), ["shop_state"], []),
        ({}, ["shop_state"], []),
    ],
)
def test_only_a_sidecar_whose_own_volume_goes_is_leaving(
    said: dict[str, Any], volumes: list[str], found: list[LeavingNode]
) -> None:
    assert list(nodes(Engine(), said, (), volumes)) == found


@pytest.mark.parametrize(
    ("seen", "name", "steps"),
    [
        (Sidecar("side", "dev-1.net.ts.net", ("100.64.0.1",)), "dev-1.net.ts.net", 1),
        (Sidecar("side", "dev-1.net.ts.net"), "", 0),
        (Sidecar("side", problems=("cannot be asked",)), "", 0),
    ],
)
def test_one_that_is_on_the_tailnet_is_called_what_it_is_called_there(
    monkeypatch: pytest.MonkeyPatch, seen: Sidecar, name: str, steps: int
) -> None:
    monkeypatch.setattr(leaving, "sidecars", lambda *_: (seen,))

    [node] = nodes(Engine(), rendered(), (SIDE,), ["shop_state"])

    assert (node.name, node.called, node.container) == (name, "dev-1" if name else "dev", SIDE)
    assert len([node.step] if node.step else []) == steps
    assert node.called in node.remark
    assert ("logged out of its tailnet for good" if name else "side will lose its name") in node.warning


def recorded(monkeypatch: pytest.MonkeyPatch, exit_code: int | None, said: str = "") -> list[str]:
    """What is done to the container, with a program that ends so, or never if None."""
    done: list[str] = []

    def run(*_: object, **__: object) -> Completed:
        done.append("log out")
        if exit_code is None:
            raise Unreachable("engine-slow", "It did not end.")
        return Completed(("tailscale",), exit_code, Captured(""), Captured(said))

    monkeypatch.setattr(containers, "hold", lambda *_: done.append("hold"))
    monkeypatch.setattr(containers, "end", lambda *_: done.append("end"))
    monkeypatch.setattr(programs, "run", run)
    return done


@pytest.mark.parametrize(
    ("exit_code", "said", "told"),
    [
        (0, "", ""),
        (1, "500: no such host\n", "dev-1.net.ts.net was not logged out: 500: no such host"),
        (1, "", "dev-1.net.ts.net was not logged out: exit code 1"),
        (None, "", "dev-1.net.ts.net was not logged out: It did not end."),
    ],
)
def test_its_start_program_is_held_meanwhile_and_ended_whatever_comes_of_it(
    monkeypatch: pytest.MonkeyPatch, exit_code: int | None, said: str, told: str
) -> None:
    done = recorded(monkeypatch, exit_code, said)

    assert log_out(Engine(), ON_IT) == told
    assert done == ["hold", "log out", "end"]


@pytest.mark.parametrize(("removed", "left"), [(True, ["remove"]), (False, ["end"])], ids=["removed", "refused"])
def test_on_a_swarm_it_is_held_until_its_service_is_removed(
    monkeypatch: pytest.MonkeyPatch, removed: bool, left: list[str]
) -> None:
    """Were its task ended, the swarm would at once start another one, which joins again."""
    done = recorded(monkeypatch, 0)
    call = Invocation(Path("/nowhere"), Output("env.down", stdout=io.StringIO(), stderr=io.StringIO()))

    def remove(*_: object) -> None:
        if not removed:
            raise Unreachable("engine-unreachable", "It does not answer.")
        done.append("remove")

    monkeypatch.setattr(swarm, "services", lambda *_: ())
    monkeypatch.setattr(swarm, "others", lambda *_: ())
    monkeypatch.setattr(swarm, "remove", remove)
    monkeypatch.setattr(swarm, "wait_gone", lambda *_: True)
    monkeypatch.setattr(networks, "remove_volume", lambda *_: None)
    for name in ("open_records", "see_known"):
        monkeypatch.setattr(swarm_view, name, lambda *_: None)

    with contextlib.nullcontext() if removed else pytest.raises(Unreachable):
        session = Session(call, "prod", Compose(Engine(), "shop", ()))
        outcome = down_swarm(session, ["shop_state"], [ON_IT], volumes=True)
        assert outcome.plan is not None
        assert [str(step) for step in outcome.plan] == ["log-out node dev-1.net.ts.net", "delete volume shop_state"]
        assert outcome.lines == [ON_IT.remark]

    assert done == ["hold", "log out", *left]


def test_on_a_swarm_the_sidecar_is_the_container_of_its_task(monkeypatch: pytest.MonkeyPatch) -> None:
    task = replace(SIDE, project="", service="")
    monkeypatch.setattr(task_containers, "of_stack", lambda *_: (("side", task), ("web", replace(task, id="2"))))
    monkeypatch.setattr(
        leaving, "sidecars", lambda _, found: [Sidecar(one.service, "dev-1.net", ("::1",)) for one in found]
    )

    [node] = leaving_here(Compose(Engine(), "shop", ()), rendered(), ["shop_state"])

    assert (node.name, node.container and node.container.id) == ("dev-1.net", SIDE.id)


def test_one_that_is_not_on_the_tailnet_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    done = recorded(monkeypatch, 0)

    assert log_out(Engine(), LeavingNode("side", "shop_state", "dev", SIDE)) == ""
    assert log_out(Engine(), LeavingNode("side", "shop_state", "dev")) == ""
    assert done == []
