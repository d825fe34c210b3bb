"""What a second look proposes."""

from __future__ import annotations

from typing import Any

from conche.init.proposing import proposals

DEV = {"compose": ["compose.yaml"], "project": "shop", "health": "http://localhost:1/"}
DB = {"driver": "command", "environment": "dev", "service": "db"}


def stack(**more: Any) -> dict[str, Any]:
    return {"name": "shop", "environments": {"dev": DEV}, **more}


def test_what_says_the_same_needs_no_proposal() -> None:
    assert proposals(stack(backup={"components": {"db": DB}}), stack(backup={"components": {"db": DB}})) == []


def test_what_a_person_has_chosen_otherwise_stays_and_is_not_spoken_of() -> None:
    mine = {"name": "mine", "environments": {"local": {"compose": ["compose.yaml"], "health": "http://x/"}}}

    assert proposals(mine, stack()) == [("environments.local.project", "is not there", "shop")]


def test_an_environment_and_data_that_are_new_are_proposed() -> None:
    prod = {"compose": ["compose.yaml", "compose.prod.yaml"]}
    after = stack(environments={"dev": DEV, "prod": prod}, backup={"components": {"db": DB, "files": {"volume": "v"}}})

    found = proposals(stack(backup={"components": {"dump": {**DB, "driver": "volume"}}}), after)

    assert found == [
        ("environments.prod", "is not there", prod),
        ("backup.components.files", "is not there", {"volume": "v"}),
    ]


def test_other_labels_are_a_change_and_a_renamed_environment_is_followed() -> None:
    mine = {"name": "shop", "environments": {"local": DEV}, "ci": {"labels": ["a"]}}

    found = proposals(mine, stack(ci={"labels": ["a", "b"]}, backup={"components": {"db": DB}}))

    assert found == [
        ("ci.labels", "['a']", ["a", "b"]),
        ("backup", "is not there", {"components": {"db": {**DB, "environment": "local"}}}),
    ]
