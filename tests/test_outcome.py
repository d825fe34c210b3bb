"""Step, Plan and Outcome are values."""

from __future__ import annotations

import dataclasses

import pytest

from conche.outcome import Outcome, Plan, Step, Table

BUILD = Step("build", "image app", "no such image", undo="remove the image")
REMOVE = Step("remove", "volume data", "asked for", destroys=True)


def test_a_plan_is_its_steps_in_order() -> None:
    plan = Plan((BUILD, REMOVE))

    assert (list(plan), len(plan), [str(step) for step in plan]) == (
        [BUILD, REMOVE],
        2,
        ["build image app", "remove volume data"],
    )


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
