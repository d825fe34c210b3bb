"""stack.yaml: whatever stands there is taken or refused with its problems."""

from __future__ import annotations

from pathlib import Path

import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from conche import stack
from conche.stack import Stack, StackInvalid
from tests.test_stack import REPOSITORY, VALID, root

__all__ = ["root"]


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates() | st.binary(max_size=9)
keys = st.sampled_from(["name", "registry", "images", "bases", "environments", "dev", "compose", "port", "tag", "web"])
anything = st.recursive(
    scalars,
    lambda below: st.lists(below, max_size=4) | st.dictionaries(keys | scalars, below, max_size=5),
    max_leaves=25,
)


def is_told(text: str, root: Path) -> bool:
    """Return whether the text is a valid stack; otherwise it must be refused with its problems, and nothing else."""
    try:
        return isinstance(stack.parse(text, root=root), Stack)
    except StackInvalid as error:
        return len(error.problems) > 0


@given(text=st.text() | st.text("{}[]:,-?&*!|>'\"#%@` \n\tab1.~<=", max_size=60))
@example("x: 0b_")
@example("!!set {a}")
@example("x: " + "9" * 5000)
@example("x: 0x" + "f" * 5000)
@example("{a: {<<: 3}}")
def test_any_text_is_a_stack_or_is_refused_with_its_problems(text: str) -> None:
    assert is_told(text, REPOSITORY)
    assert is_told(f"{VALID}{text}", REPOSITORY)


@given(content=st.dictionaries(keys | scalars, anything, max_size=6))
def test_any_structure_is_a_stack_or_is_refused_with_its_problems(content: object) -> None:
    assert is_told(yaml.safe_dump(content, allow_unicode=True), REPOSITORY)


@given(
    place=st.sampled_from(["name", "registry", "environments", "images", "bases"]),
    name=st.sampled_from(["compose", "tag", "branch", "port", "health", "engine", "project"]),
    value=anything,
)
def test_any_value_in_a_right_place_is_taken_or_refused(place: str, name: str, value: object) -> None:
    content = yaml.safe_load(VALID)
    assert is_told(yaml.safe_dump({**content, place: value}), REPOSITORY)

    content["environments"]["dev"][name] = value
    assert is_told(yaml.safe_dump(content), REPOSITORY)
