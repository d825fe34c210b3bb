"""Schedules: one grammar, of which a crontab and systemd's timers mean the same, checked as stack.yaml is read."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import product

import pytest
from croniter import croniter

from conche import stack
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
    ("@daily", "five fields"),
    ("60 2 * * *", "minute"),
    ("0 24 * * *", "hour"),
    ("0 22-2 * * *", "hour"),
    ("0 2 0 * *", "day of the month"),
    ("0 2 L * *", "day of the month"),
    ("0 2 * 13 *", "month"),
    ("0 2 * jan *", "month"),
    ("0 2 * * MON-FRI", "weekday"),
    ("0 2 * * sun", "weekday"),
    ("0 2 * * 0#1", "weekday"),
    ("0 2 * * 8", "weekday"),
    ("5/15 * * * *", "minute"),
    ("*/0 * * * *", "minute"),
    ("*/60 * * * *", "minute"),
    ("1, * * * *", "minute"),
    ("\N{ARABIC-INDIC DIGIT FIVE} 2 * * *", "minute"),
    ("0 2 1,15 * 1", "cron runs on either, systemd only on both"),
    ("0 2 1-31 * */2", "cron runs on either, systemd only on both"),
    ("0 2 31 2 *", "never occurs"),
    ("0 2 31 4,6 *", "never occurs"),
]


def stack_with(when: str) -> stack.Stack:
    return stack.parse(
        "name: factory\nregistry: localhost:5000\nbackup:\n  components: {a: {driver: secrets}}\n"
        f"  schedule: {{daily: {json.dumps(when)}}}\nenvironments: {{dev: {{compose: [x.yaml]}}}}"
    )


def due(when: str) -> Iterator[datetime]:
    """Each minute after the start that fits all five fields."""
    minutes, hours, days, months, weekdays = schedule.read(when)
    midnight = START.replace(hour=0, minute=0)
    while True:
        fits = ((days, midnight.day), (months, midnight.month), (weekdays, midnight.isoweekday() % 7))
        if all(wanted is None or found in wanted for wanted, found in fits):
            for hour, minute in product(sorted(hours or range(24)), sorted(minutes or range(60))):
                if (moment := midnight.replace(hour=hour, minute=minute)) > START:
                    yield moment
        midnight += timedelta(days=1)


def by_systemd(calendar: str, count: int) -> list[datetime]:
    """When systemd would start it."""
    said = subprocess.run(
        ["systemd-analyze", "calendar", f"--iterations={count}", f"--base-time={START:%Y-%m-%d %H:%M} UTC", calendar],
        capture_output=True, text=True, check=True, env={**os.environ, "TZ": "UTC", "LC_ALL": "C"},
    ).stdout  # fmt: skip
    found = re.findall(r"(?:Next elapse|Iter\. #[0-9]+): \w{3} ([-0-9]+ [:0-9]+) UTC", said)
    return [datetime.strptime(one, "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC) for one in found]


@pytest.mark.parametrize(("when", "calendar"), TAKEN)
def test_a_schedule_as_systemd_says_it(when: str, calendar: str) -> None:
    assert on_calendar(when) == calendar


@pytest.mark.parametrize("when", [when for when, _ in TAKEN if " 29 2 " not in when])
def test_cron_and_systemd_start_it_at_the_same_times(when: str) -> None:
    wanted = [moment for moment, _ in zip(due(when), range(4), strict=False)]

    cron = croniter(when, START)

    assert [cron.get_next(datetime) for _ in wanted] == wanted
    if shutil.which("systemd-analyze"):
        assert by_systemd(on_calendar(when), 4) == wanted


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
