"""Step, Plan and Outcome are values."""

from __future__ import annotations

import dataclasses
import re

import pytest

from conche.outcome import Action, Kind, Outcome, Plan, Step, Table
from tests.stacks import ROOT

BUILD = Step(Action.BUILD, Kind.IMAGE, "app", "no such image", undo="remove the image")
REMOVE = Step(Action.REMOVE, Kind.VOLUME, "data", "asked for", destroys=True)


def test_a_plan_is_its_steps_in_order() -> None:
    plan = Plan((BUILD, REMOVE))

    assert (list(plan), len(plan), [str(step) for step in plan]) == (
        [BUILD, REMOVE],
        2,
        ["build image app", "remove volume data"],
    )


def test_what_there_is_one_of_has_no_name() -> None:
    assert str(Step(Action.RUN, Kind.RELEASE_COMMAND, "", "asked for")) == "run release-command"


def test_the_glossary_explains_every_action() -> None:
    verbs, actions = (ROOT / "docs/glossary.md").read_text().partition("## Verbs")[2].split("## Actions")
    words = [set(re.findall(r"[\w-]+", " ".join(re.findall(r"^\|([^|]*)\|", part, re.M)))) for part in (verbs, actions)]

    assert set(Action) - words[0] <= words[1] - {"action", "---"} <= set(Action)


def test_plans_with_equal_steps_are_equal() -> None:
    assert Plan((dataclasses.replace(BUILD),)) == Plan((BUILD,))
    assert Plan((BUILD, REMOVE)) != Plan((REMOVE, BUILD))


def test_the_json_of_a_plan_has_every_field_of_every_step() -> None:
    assert Plan((BUILD, REMOVE)).as_json() == [
        {
            "action": "build",
            "subject": "image app",
            "cause": "no such image",
            "undo": "remove the image",
            "destroys": False,
        },
        {"action": "remove", "subject": "volume data", "cause": "asked for", "undo": "", "destroys": True},
    ]


@pytest.mark.parametrize(
    ("value", "name"), [(BUILD, "action"), (Plan(), "steps"), (Table((), ()), "title"), (Outcome(), "changed")]
)
def test_none_of_them_can_be_changed(value: object, name: str) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, name, "other")


def test_an_outcome_that_says_nothing_is_success_without_change() -> None:
    assert dataclasses.asdict(Outcome()) == {
        "value": None,
        "changed": False,
        "plan": {"steps": ()},
        "tables": (),
        "lines": (),
        "warnings": (),
        "exit_code": 0,
        "raw": None,
    }
