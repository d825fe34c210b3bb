"""What of the backups runs when: the entries that cron or systemd gets."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from datetime import datetime, tzinfo
from pathlib import Path

from conche.backup.site import Site
from conche.stack import KINDS, schedule

__all__ = ["CATCH_UP", "NAMES", "REBOOT", "ScheduleEntry", "command", "entries", "log_of", "next_runs", "runs"]

WAIT = 7200
"""Seconds that a scheduled command waits for another one: on a Sunday three may run shortly after each other."""

DRILL = "30 5 * * 0"
SYNC = "30 4 * * *"
CATCH_UP = "7-59/15 * * * *"
"""Off the times at which anything is due, and rarely enough to let the engine start after a boot."""

REBOOT = "@reboot"

NAMES = (*KINDS, "sync", "drill", "catch-up", "reboot")
"""The names of all possible entries."""


@dataclass(frozen=True)
class ScheduleEntry:
    """One line of the schedule.

    Attributes:
        name: the name of the entry and of its log.
        when: five cron fields, or @reboot.
        words: the task and its arguments.
    """

    name: str
    when: str
    words: tuple[str, ...]


def runs(site: Site) -> list[ScheduleEntry]:
    """Return what has to run at certain times; a run that is missed is made up for (missed.py)."""
    made = [ScheduleEntry(kind, site.section.at(kind), ("backup.create", kind, "--wait", str(WAIT))) for kind in KINDS]
    if site.section.offsite:
        made.append(ScheduleEntry("sync", SYNC, ("backup.sync",)))
    return [*made, ScheduleEntry("drill", DRILL, ("backup.drill",))]


def entries(site: Site) -> list[ScheduleEntry]:
    """Return what has to run, and when."""
    return [
        *runs(site),
        ScheduleEntry("catch-up", CATCH_UP, ("backup.cron", "catch-up")),
        # Resumes containers that a power cut has left waiting.
        ScheduleEntry("reboot", REBOOT, ("backup.verify", "latest")),
    ]


def log_of(site: Site, entry: ScheduleEntry) -> Path:
    """Return the log of an entry."""
    return site.root / "logs" / f"backup-{entry.name}.log"


def next_runs(site: Site, now: datetime, zone: tzinfo | None = None) -> list[tuple[str, datetime]]:
    """Return the next run of each entry, by the machine's clock or that of a zone, the earliest first."""
    due = ((entry.name, schedule.read(entry.when).following(now, zone)) for entry in runs(site))
    return sorted(due, key=lambda pair: pair[1])


def command() -> tuple[str, ...]:
    """Return the command line of this very invoke, with absolute paths."""
    return (sys.executable, "-m", "invoke")
