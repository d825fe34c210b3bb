"""The schedule as systemd timers of the user, for machines without cron."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

from conche.backup.site import Site
from conche.command import Invocation
from conche.files import write_atomic
from conche.outcome import Outcome, Plan, Step, Table
from conche.process import run

__all__ = ["instead_of_cron", "manage", "on_calendar", "units"]

DAYS = ("Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def instead_of_cron() -> bool:
    """Whether this machine has systemd and no cron."""
    return shutil.which("crontab") is None and shutil.which("systemctl") is not None


def on_calendar(when: str) -> str:
    """Five cron fields as systemd's OnCalendar; each field is `*`, a number, a list or a `*/step`."""
    minute, hour, day, month, weekday = when.split()
    days = "" if weekday == "*" else ",".join(DAYS[int(one)] for one in weekday.split(",")) + " "
    start = {minute: "0", hour: "0", day: "1", month: "1"}

    def field(text: str) -> str:
        first, _, step = text.partition("/")
        return f"{start.get(text, '0') if first == '*' else first}/{step}" if step else text

    return f"{days}*-{field(month)}-{field(day)} {field(hour)}:{field(minute)}:00"


def units(site: Site) -> dict[str, str]:
    """The unit files, by name."""
    from conche.backup.cron import REBOOT, command, entries

    made = {}
    for entry in entries(site):
        name = f"{site.stack.name}-backup-{entry.name}"
        log = str(site.root / "logs" / f"backup-{entry.name}.log")
        words = " ".join(shlex.quote(word) for word in (*command(), *entry.words, "--log", log))
        made[f"{name}.service"] = (
            f"[Unit]\nDescription={site.stack.name}: backup {entry.name}\n\n"
            f"[Service]\nType=oneshot\nWorkingDirectory={site.root}\nExecStart={words.replace('%', '%%')}\n"
        )
        when = "OnStartupSec=1min" if entry.when == REBOOT else f"OnCalendar={on_calendar(entry.when)}\nPersistent=true"
        made[f"{name}.timer"] = (
            f"[Unit]\nDescription={site.stack.name}: backup {entry.name}\n\n"
            f"[Timer]\n{when}\n\n[Install]\nWantedBy=timers.target\n"
        )
    return made


def manage(call: Invocation, site: Site, action: str) -> Outcome:
    """Install, show or remove the timers."""
    folder = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "systemd/user"
    wanted = units(site)
    current = {name for name in wanted if _text(folder / name) == wanted[name]}
    if action == "status":
        rows = tuple((name, "installed" if name in current else "missing") for name in wanted if name.endswith("timer"))
        well = len(current) == len(wanted)
        return Outcome(
            value={"state": "installed" if well else "not installed"},
            tables=[Table(("timer", "state"), rows)],
            lines=[] if well else ["Next: invoke backup.cron install"],
            exit_code=0 if well else 1,
        )
    plan = Plan(tuple(Step(action, f"timer {name}", "this machine has no cron") for name in _timers(wanted)))
    if call.dry_run:
        return Outcome(plan=plan)
    if action == "install":
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in wanted.items():
            write_atomic(folder / name, text.encode())
        _systemctl("daemon-reload")
        _systemctl("enable", "--now", *_timers(wanted))
    else:
        _systemctl("disable", "--now", *_timers(wanted))
        for name in wanted:
            (folder / name).unlink(missing_ok=True)
        _systemctl("daemon-reload")
    return Outcome(
        value={"installed": action == "install"}, changed=True, plan=plan, lines=["systemctl --user list-timers"]
    )


def _timers(wanted: dict[str, str]) -> Iterator[str]:
    return (name for name in wanted if name.endswith(".timer"))


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _systemctl(*words: str) -> None:
    run(["systemctl", "--user", *words], timeout=60).require(f"systemctl --user {words[0]}")
