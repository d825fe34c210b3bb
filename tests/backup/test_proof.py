"""What the answers of a check prove of a restore."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from conche.backup import proof
from conche.backup.drivers import Dumping
from conche.backup.manifest import ComponentRecord
from conche.backup.proof import compared, judged, recorded, require_same
from conche.errors import CheckFailed, ConcheError, NotFound
from conche.process import ToolFailed
from conche.stack import Component

COMPONENT = Component(
    driver="command", environment="dev", service="db", dump=("d",), restore=("r",), check=("psql", "-c", "x")
)


def record(*answers: str) -> ComponentRecord:
    return ComponentRecord(driver="command", facts=dict(zip(("check", "check after"), answers, strict=False)))


@pytest.mark.parametrize(
    ("then", "now", "expected"),
    [
        (["3|abc"], "3|abc", "same"),
        (["3|abc"], "4|abc", "other"),
        (["3", "7"], "3", "same"),
        (["3", "7"], "7", "same"),
        (["3", "7"], "5", "same"),
        (["7", "3"], "5", "same"),
        (["3", "7"], "8", "unclear"),
        (["3", "7"], "2", "unclear"),
        (["3|1.50", "7|2.25"], "5|1.75", "same"),
        (["3|1.50", "7|2.25"], "5|2.26", "unclear"),
        (["1|good\n3", "1|good\n7"], "1|good\n5", "same"),
        (["1|good\n3", "1|good\n7"], "1|good\n9", "unclear"),
        (["1|good\n3", "1|good\n7"], "0|good\n5", "other"),
        (["1|good\n3", "1|good\n7"], "1|bad\n5", "other"),
        (["1|good\n3", "1|good\n7"], "1|good", "other"),
        (["a 3", "b 7"], "a 5", "unclear"),
        (["a 3", "b 7 4"], "a 5", "unclear"),
        (["a", "b"], "c", "unclear"),
        (["9007199254740993", "9007199254740995"], "9007199254740994", "same"),
        (["9007199254740993", "9007199254740995"], "9007199254740992", "unclear"),
    ],
)
def test_an_answer_is_compared_with_those_around_the_dump_in_what_did_not_move_meanwhile(
    then: list[str], now: str, expected: str
) -> None:
    assert compared(then, now) == expected


@pytest.mark.parametrize(
    ("then", "before", "now", "proven", "why"),
    [
        (("3",), "9", "3", True, "answers as it did at the time of the backup"),
        (("3",), "3", "3", True, "and did so before the restore"),
        (("3",), None, "3", True, "answers as it did at the time of the backup"),
        (("3",), "3", None, False, "it has no check"),
        ((), "3", "3", False, "was made without its check"),
        (("3", "7"), "9", "9", False, "changed during the backup"),
    ],
)
def test_what_is_proven_is_said_and_what_is_not(
    then: tuple[str, ...], before: str | None, now: str | None, proven: bool, why: str
) -> None:
    found = judged("db", record(*then), before, now)

    assert (found.proven, why in found.why) == (proven, True)
    assert str(found).startswith("db: proven: " if proven else "db: not proven: ")
    assert found.as_json() == {"component": "db", "proven": proven, "why": found.why}


def test_another_answer_than_the_backups_is_a_failure_that_shows_both_on_one_short_line_each() -> None:
    with pytest.raises(CheckFailed) as caught:
        judged("db", record("3\n\x1b[31m" + "x" * 5000), "3", "4\nrows")
    with pytest.raises(CheckFailed) as returned:
        require_same("db", "1", "2")

    assert caught.value.code == returned.value.code == "restore-differs"
    assert "\x1b" not in "".join(caught.value.evidence)
    assert [len(line) < 250 for line in caught.value.evidence] == [True, True]
    assert caught.value.evidence[1] == "now:    '4\\nrows'"
    require_same("db", "1", "1")


@dataclass
class Asked:
    """Stands for the container: answers, or errors, one after the other; and for the dump between them."""

    answers: list[Any]
    said: list[str] = field(default_factory=list)

    def ask(self, *_: object) -> str:
        self.said.append("asked")
        answer = self.answers.pop(0)
        if isinstance(answer, ConcheError):
            raise answer
        return str(answer)

    def dump(self, _: object) -> ComponentRecord:
        self.said.append("dumped")
        return ComponentRecord(driver="command", facts={"form": "online"})


@pytest.mark.parametrize(
    ("answers", "kept", "harm", "said"),
    [
        (["3", "3"], ("3",), "", "asked dumped asked"),
        (["3", "4"], ("3", "4"), "", "asked dumped asked"),
        ([NotFound("service-not-running", "it rests")], (), "", "asked dumped"),
        ([ToolFailed("check-failed", "no such table")], (), "no such table", "asked dumped"),
        (["3", ToolFailed("check-failed", "it broke")], (), "it broke", "asked dumped asked"),
        (["3", NotFound("service-not-running", "it ended")], (), "it ended", "asked dumped asked"),
    ],
)
def test_a_backup_keeps_the_answers_around_its_dump(
    monkeypatch: pytest.MonkeyPatch, answers: list[Any], kept: tuple[str, ...], harm: str, said: str
) -> None:
    container = Asked(answers)
    monkeypatch.setattr(proof, "ask", container.ask)
    monkeypatch.setattr(proof, "dump", container.dump)
    heard: list[str] = []
    site: Any = SimpleNamespace(say=heard.append)

    made = proof.dumped(Dumping(site, "db", COMPONENT, Path("/nowhere")))

    assert " ".join(container.said) == said
    assert recorded(made) == kept
    assert made.facts["form"] == "online"
    assert [harm in words for words in made.harm] == [True] * bool(harm)
    assert heard == ([f"db: {harm}"] if harm else [])


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"services": ("db",)}, "services other than its own"),
        ({"consistency": "stop"}, "does not take consistency"),
        ({"driver": "volume", "volume": "x", "dump": (), "restore": (), "service": None}, "does not take .*check"),
    ],
)
def test_what_makes_no_sense_beside_a_check_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Component(**{**COMPONENT.model_dump(exclude_unset=True), **fields})


def test_a_database_may_have_a_check_and_services_that_stop_for_it() -> None:
    for one in (COMPONENT, Component(driver="influxdb", environment="dev", service="db", check=("influx", "ping"))):
        assert Component(**{**one.model_dump(exclude_unset=True), "services": ("app",)}).services == ("app",)
