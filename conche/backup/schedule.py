"""What of the backups runs when: the entries that cron or systemd gets."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from datetime import datetime

from conche.backup.site import Site
from conche.stack import KINDS

__all__ = ["NAMES", "REBOOT", "Entry", "command", "entries", "next_runs"]

WAIT = 7200
"""Seconds that a scheduled command waits for another one: on a Sunday three may run shortly after each other."""

DRILL = "30 5 * * 0"
SYNC = "30 4 * * *"
REBOOT = "@reboot"

NAMES = (*KINDS, "sync", "drill", "reboot")
"""The names of all possible entries."""


@dataclass(frozen=True)
class Entry:
    """One line of the schedule.

    Attributes:
        name: the name of the entry and of its log.
        when: five cron fields, or @reboot.
        words: the task and its arguments.
    """

    name: str
    when: str
    words: tuple[str, ...]


def entries(site: Site) -> list[Entry]:
    """Return what has to run, and when."""
    made = [Entry(kind, site.section.at(kind), ("backup.create", kind, "--wait", str(WAIT))) for kind in KINDS]
    if site.section.offsite:
        made.append(Entry("sync", SYNC, ("backup.sync",)))
    made.append(Entry("drill", DRILL, ("backup.drill",)))
    # Resumes containers that a power cut has left waiting.
    made.append(Entry("reboot", REBOOT, ("backup.verify", "latest")))
    return made


def next_runs(site: Site, now: datetime) -> list[tuple[str, datetime]]:
    """Return the next run of each entry, by the local clock, the earliest first."""
    from croniter import croniter

    return sorted(
        ((entry.name, croniter(entry.when, now).get_next(datetime)) for entry in entries(site) if entry.when != REBOOT),
        key=lambda pair: pair[1],
    )


def command() -> tuple[str, ...]:
    """Return the command line of this very invoke, with absolute paths."""
    return (sys.executable, "-m", "invoke")
