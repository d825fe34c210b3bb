"""backup.cron: the schedule as a marked block in the user's crontab, or as systemd timers where there is no cron.

Every line is self-contained: absolute paths, its own PATH, its own log. Other lines of the crontab are not touched.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

from conche.backup import missed, timers
from conche.backup.schedule import ScheduleEntry, command, entries, log_of, next_runs
from conche.backup.site import Site, open_site
from conche.backup.target import unwritable
from conche.command import Invocation
from conche.errors import Refused, Unreachable, did_you_mean
from conche.files import private_folder
from conche.outcome import Action, Kind, Outcome, Plan, Step, Table
from conche.process import run

__all__ = ["START", "block", "cron", "daemon_runs", "without_block"]

ACTIONS = ("install", "status", "catch-up", "uninstall")
START = "sudo service cron start"
"""Starts Debian's cron, with or without systemd."""


def block(site: Site) -> list[str]:
    """Return our lines of the crontab, with the marks around them."""
    begin, end = _marks(site)
    return [begin, *(_line(site, entry) for entry in entries(site)), end]


def without_block(site: Site, lines: Sequence[str]) -> list[str]:
    """Return the other lines of a crontab; if the end mark is missing, our block ends with the last line of ours."""
    begin, end = _marks(site)
    kept, inside = [], False
    for line in lines:
        if line == begin:
            inside = True
        elif inside and line == end:
            inside = False
        elif inside and f"# {_tag(site)} " in line:
            continue
        else:
            inside = False
            kept.append(line)
    return kept


def cron(call: Invocation, action: str, log: str | None = None) -> Outcome:
    """Install, show or remove the schedule, or make up for what was missed.

    Args:
        log: where a catch-up writes what it makes up for.
    """
    if action not in ACTIONS:
        raise Refused(
            "no-such-action",
            f"backup.cron takes install, status, catch-up or uninstall, not {action!r}.{did_you_mean(action, ACTIONS)}",
            next_command="invoke backup.cron status",
        )
    if action == "catch-up":
        return missed.report_once(call.root, log, lambda: missed.catch_up(call, open_site(call), log))
    site = open_site(call)
    _check_path(site)
    if timers.instead_of_cron():
        return timers.manage(call, site, action)
    return _status(site) if action == "status" else _change(call, site, action)


def _change(call: Invocation, site: Site, action: str) -> Outcome:
    before = _crontab()
    wanted = without_block(site, before) + (block(site) if action == "install" else [])
    # Timers may be left from when this machine had no cron: then every backup would be made twice.
    plan = Plan((*_plan(before, wanted, action).steps, *timers.removal(site).steps))
    if call.dry_run or not len(plan):
        lines = [] if len(plan) else ["Nothing to do."]
        return Outcome(plan=plan, lines=[*lines, *(block(site) if call.dry_run and action == "install" else [])])
    try:
        if action == "install":
            (site.root / "logs").mkdir(exist_ok=True)
        if wanted != before:
            _write(wanted)
        timers.remove(site)
    except OSError as error:
        raise unwritable(Path(error.filename or site.root), error) from error
    if _crontab() != wanted:
        raise Unreachable(
            "crontab-not-kept", "crontab accepted the schedule but shows a different one.", next_command="crontab -l"
        )
    if action == "uninstall":
        missed.forget(site)
        return Outcome(value={"installed": False}, changed=True, plan=plan, lines=["The schedule was removed."])
    shown = _status(site)
    return Outcome(value=shown.value, changed=True, plan=plan, tables=shown.tables, warnings=shown.warnings)


def _plan(before: list[str], wanted: list[str], action: str) -> Plan:
    if before == wanted:
        return Plan()
    return Plan((Step(Action(action), Kind.SCHEDULE, "of the backups", "asked for", undo="the other action"),))


def _status(site: Site) -> Outcome:
    lines, wanted = _crontab(), block(site)
    installed = [line for line in lines if line in wanted[1:-1]]
    current = len(installed) == len(wanted) - 2
    runs = next_runs(site, datetime.now().astimezone())
    rows = tuple((name, f"{when:%a %Y-%m-%d %H:%M}", f"logs/backup-{name}.log") for name, when in runs)
    state = "installed" if current else ("outdated" if any(_tag(site) in line for line in lines) else "not installed")
    warnings = [] if daemon_runs() else [f"no cron daemon is running, so nothing will run until: {START}"]
    return Outcome(
        value={"state": state, "next": {name: when.isoformat() for name, when in runs}, "daemon": not warnings},
        tables=[Table(("entry", "next run", "log"), rows, title=f"schedule of {site.stack.name}: {state}")],
        lines=[] if current else ["Next: invoke backup.cron install"],
        warnings=warnings,
        exit_code=0 if current else 1,
    )


def _check_path(site: Site) -> None:
    """Refuse control characters: a line break would start a new crontab line, or a new setting in a unit."""
    if any(ord(sign) < 32 or ord(sign) == 127 for sign in f"{site.root}{sys.executable}"):
        raise Refused(
            "path-not-schedulable",
            f"A control character in {str(site.root)!r} or {sys.executable!r}: a schedule cannot contain that.",
            next_command="move the checkout, or its environment",
        )


def _crontab() -> list[str]:
    listed = run(["crontab", "-l"], timeout=30, exact=True)
    if not listed.ok and "no crontab" not in listed.stderr.raw:
        listed.require("reading the crontab")
    # Split only at line feeds: other people's lines may contain what `splitlines` also takes for a line end.
    return listed.stdout.raw.removesuffix("\n").split("\n") if listed.stdout.raw and listed.ok else []


def _write(lines: Sequence[str]) -> None:
    # From a file: if the writer to `crontab -` is killed too early, crontab installs an empty crontab.
    with private_folder() as folder:
        wanted = folder / "crontab"
        wanted.write_bytes(os.fsencode("".join(f"{line}\n" for line in lines)))
        # The bare name: Debian's crontab reads only the first 100 bytes of a path.
        run(["crontab", wanted.name], cwd=folder, timeout=30).require("writing the crontab")


def _line(site: Site, entry: ScheduleEntry) -> str:
    root = site.root
    words = " ".join(shlex.quote(word) for word in (*command(), *entry.words, "--log", str(log_of(site, entry))))
    line = f"cd {shlex.quote(str(root))} && PATH={shlex.quote(_path())} {words}"
    # An unescaped % ends the command for cron.
    return f"{entry.when} {line.replace('%', chr(92) + '%')} # {_tag(site)} {entry.name}"


def _path() -> str:
    return f"{Path(sys.executable).parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def _tag(site: Site) -> str:
    return site.stack.name.upper().replace("-", "_")


def _marks(site: Site) -> tuple[str, str]:
    return (
        f"# {_tag(site)} backups: begin of what invoke backup.cron writes",
        f"# {_tag(site)} backups: end",
    )


def daemon_runs() -> bool:
    """Return whether a cron daemon runs on this machine."""
    return any(name in ("cron", "crond", "cronie", "fcron") for name in _process_names())


def _process_names() -> Iterator[str]:
    import psutil

    for process in psutil.process_iter(["name"]):
        yield process.info["name"] or ""
