"""A release on a swarm whose edge runs on another node is asked all the same, from a container in its network."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from conche.engine import oneoff
from conche.engine.compose import Compose
from conche.engine.connection import Engine
from conche.env.rollout.edge import Answer, Edge
from conche.env.rollout.look import Look
from conche.env.rollout.swarm import SwarmPipeline, probing
from conche.env.rollout.swarm_stack import Sent
from conche.errors import Restored, Unreachable
from conche.output import Output, Progress
from conche.stack import Deploy, Probe

DEPLOY = Deploy(edge="edge", serves="web", probe=Probe(path="/", field="release", times=1))
BODY = {
    "services": {"edge": {"image": "nginx:1", "networks": {"front": None}}, "web": {"image": "web:1"}},
    "networks": {"front": {}},
}


class Alone:
    """A manager on which no container of the edge runs."""

    address = "unix:///here"

    def __init__(self) -> None:
        self.client = self.api = self

    def containers(self, **_: object) -> list[object]:
        return []


def pipeline() -> SwarmPipeline:
    look = Look("prod", Compose(Engine(), "s", ()), DEPLOY, {})
    output = Output("env.deploy", stdout=io.StringIO(), stderr=io.StringIO())
    times = iter(range(0, 10_000, 5))
    asking = replace(probing(look, "r2"), clock=lambda: float(next(times)), pause=lambda _: None)
    engine: Any = Alone()
    return SwarmPipeline(
        "r2", engine, "s", Sent(BODY, {}), DEPLOY, lambda _: None, lambda: None, asking, 8000, Progress(output)
    )


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, Mapping[str, bytes]]]:
    """Containers that are started to ask: image, network and files of each."""
    made: list[tuple[str, str, Mapping[str, bytes]]] = []

    @contextlib.contextmanager
    def within(_: Engine, image: str, network: str, files: Mapping[str, bytes], __: int) -> Iterator[str]:
        made.append((image, network, files))
        yield "c0ffee"

    monkeypatch.setattr(oneoff, "within", within)
    return made


def answering(monkeypatch: pytest.MonkeyPatch, answer: Answer) -> list[str]:
    """Have the edge answer so; from which containers it was asked."""
    asked: list[str] = []

    def probe(edge: Edge, paths: Sequence[str], _: str) -> list[Answer]:
        asked.append(edge.container)
        return [answer for _ in paths]

    monkeypatch.setattr(Edge, "probe", probe)
    return asked


def test_it_is_asked_from_a_container_with_the_edges_image_in_the_edges_network(
    monkeypatch: pytest.MonkeyPatch, beside: list[tuple[str, str, Mapping[str, bytes]]]
) -> None:
    asked = answering(monkeypatch, Answer(200, '{"release": "r2"}'))

    pipeline().probe()

    assert asked == ["c0ffee"]
    assert beside == [("nginx:1", "s_front", {".curlrc": b'connect-to = "::tasks.s_edge:"\n'})]


def test_wrong_answers_take_the_release_back(
    monkeypatch: pytest.MonkeyPatch, beside: list[tuple[str, str, Mapping[str, bytes]]]
) -> None:
    answering(monkeypatch, Answer(400, "host is not allowed"))

    with pytest.raises(Restored, match="does not answer its users correctly") as failed:
        pipeline().probe()

    assert (failed.value.code, list(failed.value.evidence)) == ("probe-failed", ["/: 400 host is not allowed"])


def test_what_cannot_be_asked_is_not_taken_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise Unreachable("engine-refused", "The network s_front is not attachable.")

    monkeypatch.setattr(oneoff, "within", refused)

    with pytest.raises(Restored, match="cannot be probed from here") as failed:
        pipeline().probe()

    assert failed.value.code == "probe-failed"
    assert "not attachable" in failed.value.evidence[0]
    assert "docker network inspect s_front" in failed.value.next_command
