"""What takes longest, for `nox -s long -- compose`: random files, and releases. Nothing else collects this module."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.compose.corpus import CASES, REFUSED, Case, laid_together, released
from tests.compose.trial import Trial

pytestmark = pytest.mark.engine

FILES = 25
"""How many in one run; each takes half a minute."""

TAKEN = [case for case in CASES if case.group != REFUSED]
"""One that is refused would hide what all others of its file do."""

SERVICES = st.sampled_from(["it", "web"])
"""Of whom a file of the corpus speaks."""


@pytest.mark.timeout(7200)
@settings(max_examples=FILES, suppress_health_check=[*HealthCheck])
@given(cases=st.lists(st.tuples(st.sampled_from(TAKEN), SERVICES), min_size=2, max_size=9))
def test_what_compose_makes_of_keys_put_together_conche_makes_too(
    place: Trial, cases: Sequence[tuple[Case, str]]
) -> None:
    try:
        place.see_the_same(laid_together(cases))
    finally:
        place.remove()


def test_a_release_differs_in_nothing_but_what_the_page_says(trial: Trial) -> None:
    trial.see_released(released())
