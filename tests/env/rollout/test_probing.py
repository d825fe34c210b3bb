"""A release is asked whether it is the one that was meant, and whether it is ready with what is behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from conche.env.rollout.edge import Answer
from conche.env.rollout.probing import Probing
from conche.errors import Restored
from conche.stack import Probe

GOOD, OTHER = Answer(200, "r2"), Answer(200, "r1")
READY, UNAUTHORISED = Answer(200, "{}"), Answer(503, '{"checks": {"influxdb": "fail: answered 401 of hunter2"}}')


@dataclass
class AskedEdge:
    """An edge that answers in turn, the last answers for ever; each request takes a second."""

    rounds: list[list[Answer]]
    asked: list[tuple[Sequence[str], str]] = field(default_factory=list)
    time: float = 0.0

    def probe(self, paths: Sequence[str], candidate: str = "") -> list[Answer]:
        self.asked.append((paths, candidate))
        self.time += 1.0
        return self.rounds.pop(0) if len(self.rounds) > 1 else self.rounds[0]


def ask(rounds: list[list[Answer]], *, ready: str | None = "/ready", **options: Any) -> AskedEdge:
    edge = AskedEdge(rounds)
    probing = Probing(
        Probe(path="/version", field="release", ready=ready), "r2",
        lambda answer, release: answer.good and answer.body == release, lambda text: text.replace("hunter2", "***"),
        "prod", lambda: edge.time, lambda _: None,
    )  # fmt: skip
    probing.require(edge, "It answers wrongly; nothing was switched.", 1.5, **options)  # type: ignore[arg-type]
    return edge


def test_a_release_that_answers_and_is_ready_passes_at_once() -> None:
    edge = ask([[GOOD, GOOD, GOOD, READY]], candidate="web-r2:8000", times=3)

    assert edge.asked == [(("/version", "/version", "/version", "/ready"), "web-r2:8000")]


def test_without_a_path_for_it_readiness_is_not_asked() -> None:
    assert ask([[GOOD]], ready=None).asked == [(("/version",), "")]


def test_one_that_is_not_ready_yet_is_waited_for() -> None:
    assert len(ask([[GOOD, UNAUTHORISED]] * 5 + [[GOOD, READY]]).asked) == 6


def test_a_wrong_answer_has_its_time_after_unready_ones_and_all_together_have_theirs() -> None:
    unready = [[GOOD, UNAUTHORISED]] * 5

    assert len(ask([*unready, [OTHER, READY], [GOOD, READY]]).asked) == 7
    with pytest.raises(Restored, match="It answers wrongly"):
        ask([*unready, [OTHER, READY]])
    with pytest.raises(Restored, match="r2 runs, but is not ready"):
        ask([[OTHER, READY], [GOOD, UNAUTHORISED]] * 6 + [[GOOD, READY]])


def test_one_whose_data_refuse_it_fails_though_it_answers() -> None:
    with pytest.raises(Restored) as caught:
        ask([[GOOD, UNAUTHORISED]])

    error = caught.value
    assert error.code == "release-not-ready"
    assert error.message == "r2 runs, but is not ready: /ready is answered 503."
    assert error.evidence == ('/ready: 503 {"checks": {"influxdb": "fail: answered 401 of ***"}}',)
    assert error.next_command == "invoke env.logs --env prod"


@pytest.mark.parametrize("rounds", [[[OTHER, READY]], [[OTHER, UNAUTHORISED]], [[Answer(0, "refused"), READY]]])
def test_a_wrong_answer_is_borne_for_less_long_and_told_first(rounds: list[list[Answer]]) -> None:
    with pytest.raises(Restored, match="It answers wrongly; nothing was switched") as caught:
        ask(rounds)

    assert caught.value.code == "probe-failed"
    assert caught.value.looked_at == ("wanted: 2xx with release r2",)
