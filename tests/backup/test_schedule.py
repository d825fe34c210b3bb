"""Schedules: one grammar, of which a crontab and systemd's timers mean the same, checked as stack.yaml is read."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import islice, product
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from conche import stack
from conche.backup.schedule import next_runs
from conche.backup.site import Site
from conche.backup.target import Target
from conche.backup.timers import on_calendar
from conche.stack import StackInvalid, schedule

START = datetime(2026, 3, 3, 12, 7, tzinfo=UTC)

TAKEN = [
    ("0 2 * * *", "*-*-* 2:0:00"),
    ("0 3 * * 0", "Sun *-*-* 3:0:00"),
    ("0 3 * * 7", "Sun *-*-* 3:0:00"),
    ("0 4 1 * *", "*-*-1 4:0:00"),
    ("*/5 * * * *", "*-*-* *:0,5,10,15,20,25,30,35,40,45,50,55:00"),
    ("15 1 * * 1,3", "Mon,Wed *-*-* 1:15:00"),
    ("0 2 * * 1-5", "Mon,Tue,Wed,Thu,Fri *-*-* 2:0:00"),
    ("0 2 * * 5-7", "Sun,Fri,Sat *-*-* 2:0:00"),
    ("*/20 1-5 * * *", "*-*-* 1,2,3,4,5:0,20,40:00"),
    ("0 2 1-7 * *", "*-*-1,2,3,4,5,6,7 2:0:00"),
    ("30 1-9/4,22 */10 1,6-7 *", "*-1,6,7-1,11,21,31 1,5,9,22:30:00"),
    ("0 2 29 2 *", "*-2-29 2:0:00"),
    ("0 2 31 2,3 *", "*-2,3-31 2:0:00"),
]

REFUSED = [
    ("0 2 * *", "five fields"),
    ("0 2 * * * *", "five fields"),
    ("@daily", "five fields, minute hour day month weekday, such as 0 2 * * *; write 0 0 * * *"),
    ("@fortnightly", "such as 0 2 * * *"),
    ("60 2 * * *", "minute"),
    ("0 24 * * *", "hour"),
    ("0 22-2 * * *", "not '22-2'; write 22-23,0-2"),
    ("0 2 0 * *", "day of the month"),
    ("0 2 L * *", "day of the month"),
    ("0 2 * 13 *", "month"),
    ("0 2 * jan *", "not 'jan'; write 1"),
    ("0 2 * * MON-FRI", "not 'MON-FRI'; write 1-5"),
    ("0 2 * * fri-mon", "not 'fri-mon'; write 5-6,0-1"),
    ("0 2 ? * 1", "not '?'; write *"),
    ("0 2 * * sunday", "not 'sunday'; write 0"),
    ("0 2 * * 0#1", "weekday"),
    ("0 2 * * 8", "weekday"),
    ("5/15 * * * *", "not '5/15'; write 5-59/15"),
    ("*/0 * * * *", "minute"),
    ("*/60 * * * *", "minute"),
    ("1, * * * *", "minute"),
    ("\N{ARABIC-INDIC DIGIT FIVE} 2 * * *", "minute"),
    ("0 2 1,15 * 1", "cron runs on either, systemd only on both; write 0 2 1,15 * * or 0 2 * * 1"),
    ("0 2 1-31 * */2", "cron runs on either, systemd only on both"),
    ("0 2 31 2 *", "never occurs"),
    ("0 2 31 4,6 *", "at most 30: this one never occurs"),
]


def stack_with(when: str) -> stack.Stack:
    return stack.parse(
        "name: factory\nregistry: localhost:5000\nbackup:\n  components: {a: {driver: secrets}}\n"
        f"  schedule: {{daily: {json.dumps(when)}}}\nenvironments: {{dev: {{compose: [x.yaml]}}}}"
    )


def shown(when: str, count: int, start: datetime = START) -> list[datetime]:
    """The next runs that the status and the report show, each asked for when the one before has come."""
    made = stack_with(when)
    assert made.backup is not None
    site = Site(Path("/srv"), made, made.backup, Target(Path("/srv-backups"), "factory"), lambda _: None)
    runs: list[datetime] = []
    while len(runs) < count:
        runs.append(dict(next_runs(site, runs[-1] if runs else start))["daily"])
    return runs


def by_cron(when: str, count: int) -> list[datetime]:
    """When Debian's cron starts it, by crontab(5) alone.

    A step takes every n-th of its range, 7 is Sunday too, and where both days are restricted, which is where neither
    field begins with a star, one of them is enough.
    """
    words = when.split()
    minute, hour, day, month, weekday = (
        {number for part in word.split(",") for number in cron_part(part, *bounds)}
        for word, bounds in zip(words, ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7)), strict=True)
    )
    either = not (words[2].startswith("*") or words[4].startswith("*"))

    def fits(at: date) -> bool:
        days = (at.day in day, bool({at.isoweekday(), at.isoweekday() % 7} & weekday))
        return at.month in month and (any(days) if either else all(days))

    return list(islice(minutes_of(fits, sorted(hour), sorted(minute)), count))


def cron_part(part: str, low: int, high: int) -> Sequence[int]:
    numbers, _, step = part.partition("/")
    first, _, last = (f"{low}-{high}" if numbers == "*" else numbers).partition("-")
    return range(int(first), int(last or first) + 1, int(step or 1))


def by_calendar(calendar: str, count: int) -> list[datetime]:
    """When systemd starts it, by systemd.time(7) alone: every part must fit, and a list is of numbers."""
    words = calendar.split()
    names = words[0].split(",") if len(words) == 3 else ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]
    _, months, days = words[-2].split("-")
    hours, minutes, seconds = words[-1].split(":")
    assert seconds == "00"

    def among(text: str, number: int) -> bool:
        return text == "*" or str(number) in text.split(",")

    def fits(at: date) -> bool:
        return f"{at:%a}" in names and among(months, at.month) and among(days, at.day)

    of_day = [[number for number in range(most) if among(text, number)] for text, most in ((hours, 24), (minutes, 60))]
    return list(islice(minutes_of(fits, *of_day), count))


def minutes_of(fits: Callable[[date], bool], hours: Sequence[int], minutes: Sequence[int]) -> Iterator[datetime]:
    """Each minute after the start that is among these, on days that fit."""
    midnight = START.replace(hour=0, minute=0)
    while True:
        if fits(midnight.date()):
            for hour, minute in product(hours, minutes):
                if (moment := midnight.replace(hour=hour, minute=minute)) > START:
                    yield moment
        midnight += timedelta(days=1)


def by_systemd(calendars: Sequence[str], count: int) -> list[list[datetime]]:
    """When the systemd of this machine would start each of them."""
    said = subprocess.run(
        ["systemd-analyze", "calendar", f"--iterations={count}", f"--base-time={START:%Y-%m-%d %H:%M} UTC", *calendars],
        capture_output=True, text=True, check=True, env={**os.environ, "TZ": "UTC", "LC_ALL": "C"},
    ).stdout  # fmt: skip
    found = re.findall(r"(?:Next elapse|Iter\. #[0-9]+): \w{3} ([-0-9]+ [:0-9]+) UTC", said)
    moments = [datetime.strptime(one, "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC) for one in found]
    assert len(moments) == count * len(calendars)
    return [moments[place : place + count] for place in range(0, len(moments), count)]


def parts(low: int, high: int) -> st.SearchStrategy[str]:
    """Parts of a field, in every form that the grammar has."""
    number = st.integers(low, high)
    step = st.integers(1, high)
    span = st.tuples(number, number).map(lambda pair: f"{min(pair)}-{max(pair)}")
    return st.one_of(
        number.map(str),
        number.map("{:02}".format),
        span,
        st.builds("{}/{}".format, span, step),
        step.map("*/{}".format),
    )


def fields(low: int, high: int) -> st.SearchStrategy[str]:
    return st.one_of(st.just("*"), st.lists(parts(low, high), min_size=1, max_size=3).map(",".join))


@st.composite
def expressions(draw: st.DrawFn) -> str:
    day, weekday = draw(st.one_of(st.tuples(fields(1, 31), st.just("*")), st.tuples(st.just("*"), fields(0, 7))))
    return " ".join((draw(fields(0, 59)), draw(fields(0, 23)), day, draw(fields(1, 12)), weekday))


def accepted(when: str) -> bool:
    try:
        return bool(schedule.checked(when))
    except ValueError:
        return False  # the day is one that its months never have


@pytest.mark.parametrize(("when", "calendar"), TAKEN)
def test_a_schedule_as_systemd_says_it(when: str, calendar: str) -> None:
    assert on_calendar(when) == calendar


@settings(max_examples=25)
@given(expressions().filter(accepted))
@example("0 2 29 2 *")
@example("0 0 * * */7")
@example("59 23 31 12 *")
@example("* * * * *")
def test_cron_systemd_and_the_status_name_the_same_runs(when: str) -> None:
    assert by_cron(when, 4) == by_calendar(on_calendar(when), 4) == shown(when, 4)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
@settings(max_examples=3)
@given(st.lists(expressions().filter(accepted), min_size=10, max_size=10))
@example([when for when, _ in TAKEN])
def test_a_real_systemd_names_the_runs_that_the_status_shows(every: list[str]) -> None:
    assert by_systemd([on_calendar(when) for when in every], 4) == [shown(when, 4) for when in every]


@settings(max_examples=25)
@given(expressions().filter(accepted), st.integers(0, 4 * 366 * 24 * 60))
def test_the_run_that_was_due_last_has_no_other_between_it_and_now(when: str, minutes: int) -> None:
    now, read = START + timedelta(minutes=minutes), schedule.read(when)

    due = read.latest(now, UTC)

    assert due <= now < read.following(due, UTC)
    assert read.latest(due, UTC) == due


@pytest.fixture
def where_the_clock_is_put_on(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """From 2:00 to 3:00 on 29 March 2026, and back from 3:00 to 2:00 on 25 October."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("where_the_clock_is_put_on")
@pytest.mark.parametrize(
    ("when", "start", "runs"),
    [
        ("0 2 * * *", "2026-03-28T03:00+01:00", ["2026-03-29T03:00+02:00", "2026-03-30T02:00+02:00"]),
        ("0 2 * * *", "2026-10-24T03:00+02:00", ["2026-10-25T02:00+02:00", "2026-10-26T02:00+01:00"]),
        ("0 3 * * 0", "2026-10-20T00:00+02:00", ["2026-10-25T03:00+01:00", "2026-11-01T03:00+01:00"]),
        ("30 * * * *", "2026-03-29T01:00+01:00", ["2026-03-29T01:30+01:00", "2026-03-29T03:30+02:00"]),
        ("30 * * * *", "2026-10-25T02:15+02:00", ["2026-10-25T02:30+02:00", "2026-10-25T02:30+01:00"]),
    ],
)
def test_the_night_in_which_the_clock_is_changed_has_its_run_once(when: str, start: str, runs: list[str]) -> None:
    assert shown(when, 2, datetime.fromisoformat(start)) == [datetime.fromisoformat(one) for one in runs]


@pytest.mark.parametrize(("when", "reason"), REFUSED)
def test_what_one_of_the_two_cannot_say_is_refused_as_the_file_is_read(when: str, reason: str) -> None:
    with pytest.raises(StackInvalid) as caught:
        stack_with(when)

    [problem] = caught.value.problems
    assert (problem.path, problem.line) == ("backup.schedule.daily", 5)
    assert problem.message.startswith(f"got {when!r}, expected ")
    assert reason in problem.message


def test_a_schedule_is_one_line_whatever_stands_between_its_fields() -> None:
    section = stack_with("0  2 *\t* *").backup

    assert section is not None
    assert section.at("daily") == "0 2 * * *"
