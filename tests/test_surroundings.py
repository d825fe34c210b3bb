"""The combined surroundings that tests are run in: each surrounding once, without contradictions."""

from __future__ import annotations

import pytest

from tests.surroundings import SURROUNDINGS, TOGETHER, CannotBeMade, combined


def test_every_surrounding_is_in_one_run() -> None:
    assert sorted(name for names in TOGETHER for name in names.split("+")) == sorted(SURROUNDINGS)


@pytest.mark.parametrize("names", TOGETHER)
def test_those_that_are_run_together_do_not_contradict_each_other(names: str) -> None:
    parts = [SURROUNDINGS[name] for name in names.split("+")]

    made = combined(names.split("+"))

    assert made.environment == {key: value for part in parts for key, value in part.environment.items()}
    assert made.user in {part.user for part in parts}
    assert made.closed == any(part.closed for part in parts)


def test_what_contradicts_is_refused() -> None:
    with pytest.raises(CannotBeMade, match="umask"):
        combined(["umask-077", "umask-002"])
    with pytest.raises(CannotBeMade, match="TZ"):
        combined(["kiritimati", "st-johns"])
