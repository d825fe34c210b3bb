"""Schedules: the subset of cron's five fields that crontabs and systemd's timers interpret alike.

A field is `*`, or a list of numbers, ranges `a-b`, and steps `*/n` and `a-b/n`. Facts are from crontab(5) of Debian's
cron and from systemd.time(7). Whatever either rejects or interprets differently is refused, with what to write instead
where that can be said: names, ranges that wrap, `a/n`, `0#1`, and a day of the month together with a weekday, which
cron takes as either and systemd as both.
"""

from __future__ import annotations

import re
from calendar import monthrange
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from itertools import product
from typing import NamedTuple

__all__ = ["Field", "Schedule", "checked", "read"]

LEAP_YEAR = 2024
"""A year that has every possible date."""

_WEEKDAY = "weekday (Sunday is 0)"
_RANGES = {"minute": (0, 59), "hour": (0, 23), "day of the month": (1, 31), "month": (1, 12), _WEEKDAY: (0, 7)}
_PART = re.compile(r"(?:\*|([0-9]{1,2})(?:-([0-9]{1,2}))?)(?:/([0-9]{1,2}))?")

_NAMES = {
    "month": ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"),
    _WEEKDAY: ("sun", "mon", "tue", "wed", "thu", "fri", "sat"),
}
_SHORT = {
    "@hourly": "0 * * * *", "@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *", "@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *",
}  # fmt: skip

_LONGEST = 8 * 366
"""The most days between two runs: 29 February is missing in 1900 and 2100, and so up to eight years apart."""

Field = frozenset[int] | None
"""The numbers that a field stands for; None is `*`."""


class Schedule(NamedTuple):
    """The five fields. Sunday is 0."""

    minutes: Field
    hours: Field
    days: Field
    months: Field
    weekdays: Field

    def following(self, moment: datetime, zone: tzinfo | None = None) -> datetime:
        """Return the first run after a moment.

        Args:
            zone: whose clock the fields are of; default: the machine's.
        """
        return next(run for day in self._days(moment, 1, zone) for run in self._runs(day, zone) if run > moment)

    def latest(self, moment: datetime, zone: tzinfo | None = None) -> datetime:
        """Return the last run that was due at a moment or before it."""
        days = self._days(moment, -1, zone)
        return next(run for day in days for run in reversed(self._runs(day, zone)) if run <= moment)

    def _days(self, moment: datetime, step: int, zone: tzinfo | None) -> Iterator[date]:
        first = moment.astimezone(zone).date()
        return (first + timedelta(days=step * count) for count in range(-1, _LONGEST + 1))

    def _runs(self, day: date, zone: tzinfo | None) -> list[datetime]:
        """Return the runs of a day, in order.

        Of a time that the clock has twice, cron and systemd take the first, but in every hour cron takes both. A time
        that the clock skips becomes the same one of the new time: cron runs by then, systemd not at all.
        """
        fits = ((self.days, day.day), (self.months, day.month), (self.weekdays, day.isoweekday() % 7))
        if any(wanted is not None and found not in wanted for wanted, found in fits):
            return []
        times = product(self.hours or range(24), self.minutes or range(60), (0,) if self.hours else (0, 1))
        naive = (datetime.combine(day, time(hour, minute, fold=fold)) for hour, minute, fold in times)
        # `astimezone` of a naive time that the clock skips would come out an hour early.
        moments = {(one.replace(tzinfo=zone) if zone else one).timestamp() for one in naive}
        return [datetime.fromtimestamp(one, UTC).astimezone(zone) for one in sorted(moments)]


def read(text: str) -> Schedule:
    """Parse a schedule.

    Raises:
        ValueError: with what was expected in its place.
    """
    words = text.split()
    if len(words) != len(_RANGES):
        known = _SHORT.get(text.strip().lower())
        raise ValueError(
            "five fields, minute hour day month weekday, such as 0 2 * * *" + (f"; write {known}" if known else "")
        )
    minutes, hours, days, months, weekdays = (_numbers(*pair) for pair in zip(words, _RANGES, strict=True))
    if days is not None and weekdays is not None:
        start, month = " ".join(words[:2]), words[3]
        raise ValueError(
            "a day of the month or a weekday, and * for the other: cron runs on either, systemd only on both;"
            f" write {start} {words[2]} {month} * or {start} * {month} {words[4]}"
        )
    longest = max(monthrange(LEAP_YEAR, one)[1] for one in months or range(1, 13))
    if days is not None and min(days) > longest:
        raise ValueError(f"a day that its month has, at most {longest}: this one never occurs")
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


def _part(part: str, name: str) -> Iterable[int]:
    low, high = _RANGES[name]
    numbers = _range(part, low, high)
    if numbers is None:
        raise ValueError(
            f"as its {name} * or numbers from {low} to {high}, such as 1, 1-5, 1-5/2, */2 or 1,5, not {part!r}"
            + _advice(part, name)
        )
    return numbers


def _range(part: str, low: int, high: int) -> range | None:
    """Return the numbers that a part of a field means; None if it is not in the grammar."""
    found = _PART.fullmatch(part)
    if not found:
        return None
    first, last, step = (int(one) if one else None for one in found.groups())
    start, end = (low, high) if first is None else (first, first if last is None else last)
    stepped = step is None or (1 <= step <= high and (first is None or last is not None))
    return range(start, end + 1, step or 1) if stepped and low <= start <= end <= high else None


def _advice(part: str, name: str) -> str:
    """Return what to write for a part that other crons know, if this grammar can say it."""
    low, high = _RANGES[name]
    most = 6 if name == _WEEKDAY else high
    said = "*" if part == "?" else part.lower()
    for number, word in enumerate(_NAMES.get(name, ()), low):
        said = re.sub(rf"\b{word}[a-z]*\b", str(number), said)
    if found := re.fullmatch(r"([0-9]{1,2})-([0-9]{1,2})", said):
        first, last = map(int, found.groups())
        if first > last:
            said = f"{first}-{most},{low}-{last}"
    elif found := re.fullmatch(r"([0-9]{1,2})/([0-9]{1,2})", said):
        said = f"{found[1]}-{most}/{found[2]}"
    valid = all(_range(one, low, high) is not None for one in said.split(","))
    return f"; write {said}" if valid else ""
