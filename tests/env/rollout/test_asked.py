"""Each release is asked as stack.yaml said when it was deployed: a path of today's may be one it does not know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import cast

import pytest

from conche import formats
from conche.engine import containers, networks
from conche.engine.compose import Compose
from conche.engine.connection import Engine
from conche.engine.state import State
from conche.env.rollout import edge as edges
from conche.env.rollout import members
from conche.env.rollout.edge import Answer
from conche.env.rollout.look import Look, probe_kept
from conche.env.rollout.unwinding import Before
from conche.errors import NotRestored, Restored
from conche.release.document import RELEASE
from conche.release.records import Ending, Record, Records
from conche.release.signing import signed
from conche.stack import Deploy, Probe
from tests.env.rollout.test_plan import container, record

THEN = Probe(path="/version", field="release", ready="/ready")
TODAY = Deploy(
    edge="edge", serves="web", probe=Probe(path="/api/v2/version", field="app.release", ready="/api/v2/ready")
)
KNOWN = {"/version": '{"release": "r1"}', "/ready": ""}


@dataclass
class OldApplication:
    """An edge in front of an application that knows the paths of its own time only."""

    asked: list[str] = field(default_factory=list)

    def answer(self, path: str) -> Answer:
        self.asked.append(path)
        return Answer(200, KNOWN[path]) if path in KNOWN else Answer(404, "no such path")

    def state(self, path: str) -> tuple[str, Answer]:
        return "r1", self.answer(path)

    def probe(self, paths: Sequence[str], _: str) -> list[Answer]:
        return [self.answer(path) for path in paths]

    def reaches(self, _: str, path: str) -> Answer:
        return self.answer(path)

    def in_place(self) -> edges.EdgeConfiguration:
        return edges.EdgeConfiguration("r1-0", "r1", {})


@pytest.fixture
def application(monkeypatch: pytest.MonkeyPatch) -> OldApplication:
    found = (replace(container("web"), labels={RELEASE: "r1"}), container("edge"))
    old = OldApplication()
    monkeypatch.setattr(containers, "of_project", lambda *_: found)
    monkeypatch.setattr(Look, "edge", lambda _: old)
    return old


def records(*entries: tuple[Record, str]) -> Records:
    """Records as an engine keeps them; an ending that is empty is missing."""
    files = {}
    for one, result in entries:
        files[f"releases/{one.id}/record.json"] = signed(formats.RELEASE, asdict(one))
        if result:
            ending = asdict(Ending(result, "2026-01-01T00:00:00Z", 1.0))
            files[f"releases/{one.id}/ending.json"] = signed(formats.ENDING, ending)

    class Kept:
        def read(self) -> dict[str, bytes]:
            return files

    return Records(cast("State", Kept()))


def look() -> Look:
    return Look("prod", Compose(Engine(), "x-prod", ()), TODAY, {})


FIRST = replace(record(1), probe=THEN.model_dump())


def test_a_release_is_asked_by_the_paths_and_the_field_of_its_time(application: OldApplication) -> None:
    kept = look().with_probes_of(records((FIRST, "succeeded")))

    assert kept.answers("r1")
    assert kept.state() == ("r1", Answer(200, KNOWN["/version"]))
    assert kept.wrong("r1") == kept.astray("r1") == ""
    assert not look().answers("r1")


def test_what_served_is_found_to_serve_again_whatever_the_next_one_is_asked(
    application: OldApplication, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(networks, "names", lambda _: frozenset())
    kept = look().with_probes_of(records((FIRST, "succeeded")))
    before = Before.of(kept, "r1")

    assert (before.answered, before.identified) == (True, True)
    assert before.not_served(kept) == []
    application.asked.clear()
    before.require_answer(kept, 8000)
    assert application.asked == ["/version"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(KNOWN, "/version", '{"release": "r0"}')
        assert before.not_served(kept) == ['r1 answers /version: 200 {"release": "r0"}']
        patch.setattr(application, "reaches", lambda *_: Answer(502, "gone"))
        with pytest.raises(NotRestored, match="r1 does not answer"):
            before.require_answer(kept, 8000)


def test_more_containers_of_a_release_are_asked_as_it_is(application: OldApplication) -> None:
    new = [replace(container("web"), id="0123456789abcdef")]

    members.prove(look().with_probes_of(records((FIRST, "succeeded"))), new, "r1")
    with pytest.raises(Restored):
        members.prove(look(), new, "r1")


@pytest.mark.parametrize("result", ["restored", "failed", "interrupted", ""])
def test_a_release_that_did_not_succeed_does_not_say_how_what_serves_is_asked(result: str) -> None:
    """One that changes the edge's configuration alone has the containers, and so the label, of the one before."""
    rerouted = replace(record(2), keeps="r1", probe=TODAY.probe.model_dump())

    assert look().with_probes_of(records((FIRST, "succeeded"), (rerouted, result))).probe_of("r1") == THEN
    assert look().with_probes_of(records((FIRST, "succeeded"), (rerouted, "succeeded"))).probe_of("r1") == TODAY.probe


@pytest.mark.parametrize("kept", [{}, {"path": "no path"}, {"later": 1}], ids=["older", "damaged", "later"])
def test_what_was_not_kept_is_asked_as_today(kept: dict[str, object]) -> None:
    old = replace(record(1), probe=kept)

    assert probe_kept(old) is None
    assert look().with_probes_of(records((old, "succeeded"))).probe_of("r1") == TODAY.probe


def test_a_later_version_may_have_added_to_what_was_kept() -> None:
    assert probe_kept(replace(record(1), probe={**THEN.model_dump(), "method": "HEAD"})) == THEN
