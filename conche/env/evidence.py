"""Explains why containers do not work, in their own words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from conche.engine import containers, logs
from conche.engine.compose import Compose
from conche.engine.containers import Container
from conche.engine.health import RESTARTED, Waiting
from conche.env.cures import cure
from conche.errors import ConcheError
from conche.stack import TRIAL

__all__ = ["Reason", "evidence", "explained", "reasons", "telling"]

SEARCHED = 2000
"""Lines of a log that are searched; some may come from a later start than the one that failed."""

SHOWN = 20
"""Lines of a log that are shown."""

LONGEST = 200
"""Characters that are kept of the line that says why."""

IN_PASSING = 2
"""Clarity of a line that contains a word of failure but need not be about one."""

_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")

_RAISED = re.compile(r"(\w+\.)*\w*(Error|Exception)\b(: |$)")
"""The last line of a traceback."""

_LEVEL = re.compile(
    r"\b(\w*error|fatal|panic|critical)\b[\"'\]]?[:\]=,]|level\W{1,3}(error|fatal|panic|critical)", re.I
)

_WORDS = re.compile(
    r"\b(error|fatal|fail(ed|ure)|cannot|can't|could not|unable|denied|refused|rejected|invalid|expired|not found"
    r"|no such|unauthori[sz]ed|forbidden|missing|requires?|required|already (in )?use|out of memory|no space"
    r"|timed? ?out|not permitted)",
    re.I,
)

_NO_CAUSE = re.compile(r"\b(no|0|without) errors?\b|\berror\W{1,3}(nil|null|none|<nil>)|exit (status|code) \d", re.I)
"""Lines about no error, or only about how another process has ended."""

_ASIDE = re.compile(r"log\.tailscale\.(com|io)|\[RATELIMIT\]|warnable=wantrunning-false|ipnext: ")
"""Lines of a sidecar about its own log, from before it joins, and from when it stops."""


class Reason(NamedTuple):
    """Why a service does not work.

    Attributes:
        says: the reason in one line, such as `web exited with 3: no licence`.
        lines: what it was taken from.
        cure: the command that removes the reason, if there is a known one.
    """

    says: str
    lines: list[str]
    cure: str = ""


def reasons(waiting: Waiting) -> str:
    """List the services that do not work, each with the reason: `web exited with 3, db is unhealthy`."""
    return ", ".join(f"{_called(name)} {reason}" for name, reason in sorted(waiting.services.items()))


def evidence(compose: Compose, waiting: Waiting) -> list[str]:
    """Return how each failed container failed, its last lines, its healthcheck's words and the engine's; redacted.

    A log that cannot be read is reported in its place: the failure that is being explained is the one to show.
    """
    return [line for reason in explained(compose, waiting).values() for line in reason.lines]


def explained(compose: Compose, waiting: Waiting, since: Mapping[str, datetime] | None = None) -> dict[str, Reason]:
    """Return service -> why it does not work; redacted.

    Args:
        since: service -> when its start was ordered, by the engine's clock, if its log goes back further.
    """
    found = {service: Reason(f"{_called(service)} {said}", []) for service, said in waiting.services.items()}
    for one in (one for one in waiting.containers if one.name in waiting.failed):
        reason = waiting.failed[one.name]
        why, lines = _of(compose, one, reason, (since or {}).get(one.service))
        says = f"{_called(one.service)} {reason}" + (f": {why}" if why else "")
        before = found[one.service]
        way_out = before.cure or cure(compose.engine, one, why)
        found[one.service] = Reason(compose.redact(says), [*before.lines, *map(compose.redact, lines)], way_out)
    return found


def _called(service: str) -> str:
    """Return the name of a service in its files, without the suffix of a trial."""
    return service.removesuffix(TRIAL)


def telling(lines: Sequence[str]) -> tuple[str, int]:
    """Return the line of a log that says most clearly why a program gave up, and how clearly, from 0.

    Of several equally clear lines it is the last.
    """
    best, most = "", 0
    for line in (_plain(line) for line in lines):
        clear = _clarity(line)
        if clear and clear >= most:
            best, most = line, clear
    return best[:LONGEST], most


def _clarity(line: str) -> int:
    if _RAISED.match(line):
        return 4
    if _ASIDE.search(line):
        return 0
    clear = 3 if _LEVEL.search(line) else IN_PASSING if _WORDS.search(line) else 0
    return clear - IN_PASSING if clear and _NO_CAUSE.search(line) else clear


def _plain(line: str) -> str:
    return _ANSI.sub("", line).strip()


def _of(compose: Compose, container: Container, reason: str, since: datetime | None) -> tuple[str, list[str]]:
    """Return the line that says why, if any does, and everything that was found."""
    asked = [f"healthcheck: {words}" for words in container.health_log]
    engine = [f"engine: {container.error}"] if container.error else []
    try:
        lines = _log(compose, container, reason, since)
    except ConcheError as error:
        why = container.error or "".join(container.health_log[-1:])
        return why[:LONGEST], [f"{container.name} {reason}; {_unread(container, error)}", *asked, *engine]
    shown = lines[-SHOWN:] or ["(it wrote nothing)"]
    return _why(container, reason, lines), [f"{container.name} {reason}; its last lines:", *shown, *asked, *engine]


def _why(container: Container, reason: str, lines: Sequence[str]) -> str:
    if container.oom_killed:
        return ""
    said, clear = telling(lines)
    asked = "".join(container.health_log[-1:])
    ended = container.state in ("exited", "dead", "restarting") or reason.startswith(RESTARTED)
    last = next((plain for line in reversed(lines) if (plain := _plain(line))), "") if ended else ""
    # A healthcheck only says what it was asked; a log may be about anything.
    ranked: Iterable[str] = (said, container.error, last, asked) if ended or clear > IN_PASSING else (asked, said)
    return next((words for words in ranked if words), "")[:LONGEST]


def _log(compose: Compose, container: Container, reason: str, since: datetime | None) -> list[str]:
    """Return the last lines of the start that failed, without those of a later start."""
    entries = logs.last_entries(compose.engine, container.id, SEARCHED, since)
    until = container.started_at
    if container.state != "running" or not reason.startswith(RESTARTED):
        now = containers.read(compose.engine, container.id)
        until = now.started_at if now is not None and now.started_at != until else None
    return [words for moment, words in entries if until is None or moment < until]


def _unread(container: Container, error: ConcheError) -> str:
    """Return why a log cannot be read: most often because of its logging driver."""
    said = " ".join(error.evidence) or error.message
    if "does not support reading" in said:
        return f'its log goes to "{container.log_driver}" and cannot be read'
    return f"its log cannot be read: {said}"
