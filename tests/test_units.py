"""Times and sizes as people read them."""

from __future__ import annotations

import pytest

from conche.units import size, span


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-5, "0 s"), (0, "0 s"), (59.9, "59 s"), (60, "1 min 0 s"), (3599, "59 min 59 s"), (90061, "1 d 1 h")],
)
def test_a_span_has_its_two_largest_units(seconds: float, words: str) -> None:
    assert span(seconds) == words


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (9_940, "9.9 kB"), (225_400_000, "225 MB"), (3.2e9, "3.2 GB")],
)
def test_a_size_is_in_decimal_units(count: float, words: str) -> None:
    assert size(count) == words
