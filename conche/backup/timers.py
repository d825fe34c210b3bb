"""The schedule as the user's systemd timers, for machines without cron."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from conche.backup import missed
from conche.backup.schedule import NAMES, REBOOT, command, entries, log_of
from conche.backup.site import Site
from conche.command import Invocation
from conche.errors import Refused, Unreachable
from conche.files import write_atomic
from conche.outcome import Action, Kind, Outcome, Plan, Step, Table
from conche.process import run
from conche.stack import schedule

__all__ = ["instead_of_cron", "manage", "on_calendar", "removal", "remove", "units", "usable"]

DAYS = ("Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat")

_PLAIN = re.compile(r"[A-Za-z0-9_./:=@,+%-]+")
"""A word that needs no quotes in a unit's command line, once `%` is doubled."""


def instead_of_cron() -> bool:
    """Return whether this machine has systemd but no cron."""
    return shutil.which("crontab") is None and shutil.which("systemctl") is not None


def on_calendar(when: str) -> str:
    """Return a schedule for systemd's OnCalendar=, each field as `*` or a list of numbers (systemd.time(7)).

    Raises:
        ValueError: it is not a schedule that both cron and systemd accept.
    """
    minutes, hours, days, months, weekdays = (_listed(field) for field in schedule.read(when))
    names = "" if weekdays == "*" else ",".join(DAYS[int(one)] for one in weekdays.split(",")) + " "
    return f"{names}*-{months}-{days} {hours}:{minutes}:00"


def _listed(field: schedule.Field) -> str:
    return "*" if field is None else ",".join(map(str, sorted(field)))


def units(site: Site) -> dict[str, str]:
    """Return the content of the unit files, by name."""
    made = {}
    for entry in entries(site):
        name = f"{site.stack.name}-backup-{entry.name}"
        made[f"{name}.service"] = (
            f"[Unit]\nDescription={site.stack.name}: backup {entry.name}\n\n"
            f"[Service]\nType=oneshot\nWorkingDirectory={_folder(site.root)}\n"
            f"ExecStart={_command_line((*command(), *entry.words, '--log', str(log_of(site, entry))))}\n"
        )
        when = "OnStartupSec=1min" if entry.when == REBOOT else f"OnCalendar={on_calendar(entry.when)}\nPersistent=true"
        made[f"{name}.timer"] = (
            f"[Unit]\nDescription={site.stack.name}: backup {entry.name}\n\n"
            f"[Timer]\n{when}\n\n[Install]\nWantedBy=timers.target\n"
        )
    return made


def _folder(path: Path) -> str:
    """Return a path as a whole setting: it is not quoted, but specifiers are expanded in it (systemd.unit(5))."""
    text = str(path).replace("%", "%%")
    # A backslash at the end would join the next line, and white space at the end would be cut off.
    return f"{text}/." if text.endswith("\\") or text[-1:].isspace() else text


def _command_line(words: Sequence[str]) -> str:
    """Quote words as ExecStart= parses them, with quotes and escapes of systemd.syntax(7), and `$` and `%` doubled.

    The program's path may contain no quote and no backslash, and variables are not expanded in it, but they are in
    argv[0] (systemd.service(5)): a program with such a path is started by a shell.
    """
    through = () if _PLAIN.fullmatch(words[0]) else ("/bin/sh", "-c", 'exec "$@"', "sh")
    return " ".join(_quoted(word) for word in (*through, *words))


def _quoted(word: str) -> str:
    escaped = word.replace("%", "%%").replace("$", "$$")
    if _PLAIN.fullmatch(escaped):
        return escaped
    return '"{}"'.format(escaped.replace("\\", "\\\\").replace('"', '\\"'))


def manage(call: Invocation, site: Site, action: str) -> Outcome:
    """Install, show or remove the timers."""
    if action == "uninstall":
        return _uninstall(call, site)
    _check_path(site.root)
    wanted = units(site)
    if action == "status":
        return _status(wanted)
    plan = Plan(tuple(Step(Action(action), Kind.TIMER, name, "this machine has no cron") for name in _timers(wanted)))
    if call.dry_run:
        return Outcome(plan=plan)
    if not _answers():
        raise Unreachable(
            "no-user-systemd",
            "There is no cron, and no systemd for this user. Nothing was written.",
            looked_at=["systemctl --user show-environment"],
            next_command="sudo apt-get install cron\ninvoke backup.cron install",
        )
    folder = _place()
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in wanted.items():
        write_atomic(folder / name, text.encode())
    _systemctl("daemon-reload")
    _systemctl("enable", "--now", *_timers(wanted))
    return Outcome(value={"installed": True}, changed=True, plan=plan, lines=["systemctl --user list-timers"])


def _status(wanted: dict[str, str]) -> Outcome:
    current = [name for name in wanted if _text(_place() / name) == wanted[name]]
    enabled = [name for name in _timers(wanted) if _link(name).is_symlink() and name in current]
    rows = tuple((name, "installed" if name in enabled else "missing") for name in _timers(wanted))
    well = len(current) == len(wanted) and len(enabled) == len(rows)
    warnings = [] if _answers() else ["there is no systemd for this user: nothing will run"]
    return Outcome(
        value={"state": "installed" if well else "not installed", "daemon": not warnings},
        tables=[Table(("timer", "state"), rows)],
        lines=[] if well else ["Next: invoke backup.cron install"],
        warnings=warnings,
        exit_code=0 if well else 1,
    )


def _uninstall(call: Invocation, site: Site) -> Outcome:
    plan = removal(site)
    if call.dry_run or not len(plan):
        return Outcome(plan=plan, lines=[] if len(plan) else ["Nothing to do."])
    remove(site)
    missed.forget(site)
    return Outcome(value={"installed": False}, changed=True, plan=plan, lines=["The timers were removed."])


def removal(site: Site) -> Plan:
    """Return the steps of `remove`, including timers from when this machine had no cron."""
    return Plan(tuple(Step(Action.UNINSTALL, Kind.TIMER, path.name, "asked for") for path in _there(site)))


def remove(site: Site) -> None:
    """Stop and remove the timers; if systemd does not answer, only their files, which the next login reads."""
    there = _there(site)
    if not there:
        return
    timers = sorted({path.name for path in there if path.suffix == ".timer"})
    answers = usable()
    if answers and timers:
        _systemctl("disable", "--now", *timers)
    for path in there:
        path.unlink(missing_ok=True)
    if answers:
        _systemctl("daemon-reload")


def usable() -> bool:
    """Return whether systemd would start something for this user."""
    return shutil.which("systemctl") is not None and _answers()


def _there(site: Site) -> list[Path]:
    timers = [f"{site.stack.name}-backup-{name}.timer" for name in NAMES]
    units = [path for name in timers for path in (_place() / name, (_place() / name).with_suffix(".service"))]
    return [path for path in (*(_link(name) for name in timers), *units) if path.is_symlink() or path.exists()]


def _place() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "systemd/user"


def _link(name: str) -> Path:
    """Return the link that `systemctl enable` makes for `WantedBy=timers.target`."""
    return _place() / "timers.target.wants" / name


def _check_path(root: Path) -> None:
    try:
        str(root).encode()
    except UnicodeEncodeError:
        raise Refused(
            "path-not-schedulable",
            f"The checkout's path {os.fsencode(root)!r} is not UTF-8, which systemd units must be.",
            next_command="move the checkout, or: sudo apt-get install cron",
        ) from None


def _timers(wanted: Iterable[str]) -> list[str]:
    return [name for name in wanted if name.endswith(".timer")]


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _answers() -> bool:
    return run(["systemctl", "--user", "show-environment"], timeout=30).ok


def _systemctl(*words: str) -> None:
    run(["systemctl", "--user", *words], timeout=60).require(f"systemctl --user {words[0]}")
