"""Schedules: the subset of cron's five fields that crontabs and systemd's timers interpret alike.

A field is `*`, or a list of numbers, ranges `a-b`, and steps `*/n` and `a-b/n`. Facts are from crontab(5) of Debian's
cron and from systemd.time(7). Whatever either rejects or interprets differently is refused: names, ranges that wrap,
`a/n`, `0#1`, and a day of the month together with a weekday, which cron takes as either and systemd as both.
"""

from __future__ import annotations

import re
from calendar import monthrange
from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["Field", "Schedule", "checked", "read"]

LEAP_YEAR = 2024
"""A year that has every possible date."""

_WEEKDAY = "weekday (Sunday is 0)"
_RANGES = {"minute": (0, 59), "hour": (0, 23), "day of the month": (1, 31), "month": (1, 12), _WEEKDAY: (0, 7)}
_PART = re.compile(r"(?:\*|([0-9]{1,2})(?:-([0-9]{1,2}))?)(?:/([0-9]{1,2}))?")

Field = frozenset[int] | None
"""The numbers that a field stands for; None is `*`."""


class Schedule(NamedTuple):
    """The five fields. Sunday is 0."""

    minutes: Field
    hours: Field
    days: Field
    months: Field
    weekdays: Field


def read(text: str) -> Schedule:
    """Parse a schedule.

    Raises:
        ValueError: with what was expected in its place.
    """
    words = text.split()
    if len(words) != len(_RANGES):
        raise ValueError("five fields, minute hour day month weekday, such as 0 2 * * *")
    minutes, hours, days, months, weekdays = (_numbers(*pair) for pair in zip(words, _RANGES, strict=True))
    if days is not None and weekdays is not None:
        raise ValueError(
            "a day of the month or a weekday, and * for the other: cron runs on either, systemd only on both"
        )
    if days is not None and min(days) > max(monthrange(LEAP_YEAR, one)[1] for one in months or range(1, 13)):
        raise ValueError("a day that its month has: this one never occurs")
    return Schedule(minutes, hours, days, months, None if weekdays is None else frozenset(one % 7 for one in weekdays))


def checked(text: str) -> str:
    """Validate a schedule, and return it with one space between its fields, as in a crontab.

    Raises:
        ValueError: with what was expected in its place.
    """
    read(text)
    return " ".join(text.split())


def _numbers(word: str, name: str) -> Field:
    return None if word == "*" else frozenset(one for part in word.split(",") for one in _part(part, name))


def _part(part: str, name: str) -> Iterator[int]:
    low, high = _RANGES[name]
    found = _PART.fullmatch(part)
    if found:
        first, last, step = (int(one) if one else None for one in found.groups())
        start, end = (low, high) if first is None else (first, first if last is None else last)
        stepped = step is None or (1 <= step <= high and (first is None or last is not None))
        if stepped and low <= start <= end <= high:
            yield from range(start, end + 1, step or 1)
            return
    raise ValueError(
        f"as its {name} * or numbers from {low} to {high}, such as 1, 1-5, 1-5/2, */2 or 1,5, not {part!r}"
    )
