"""Judges whether a restore brought back what was backed up, by comparing the answers of a component's `check`.

The check runs before and after a dump, since an application may write meanwhile; both answers are kept with the backup.
A restore is proven if its answer equals one of the two, or lies between them in every number that has moved.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from conche.backup.drivers import Dumping, by_programs, dump, printable
from conche.backup.drivers.program import opened
from conche.backup.drivers.programs import programs_of
from conche.backup.history import AFTER, ASKED, BEFORE, COUNTED
from conche.backup.manifest import ComponentRecord, Omission
from conche.backup.redaction import redacting
from conche.backup.site import Site
from conche.engine import programs
from conche.errors import CheckFailed, ConcheError, NotFound
from conche.process import ToolFailed
from conche.stack import Component

__all__ = ["Proof", "ask", "check_of", "compared", "dumped", "judged", "judged_before", "recorded", "require_same"]

PATIENCE = 600.0
"""Seconds that a check may take to answer."""

LARGEST = 64 << 10
"""Maximum characters of an answer: it goes into the manifest."""

SHOWN = 200
"""Maximum characters shown of each of two answers that differ."""

NUMBER = re.compile(r"(\d+(?:\.\d+)?)")
"""Splits an answer into alternating text and numbers."""


@dataclass(frozen=True)
class Proof:
    """Whether a restored component is proven to be what was backed up.

    Attributes:
        why: the reason, in words.
    """

    component: str
    proven: bool
    why: str

    def __str__(self) -> str:
        return f"{self.component}: {'proven' if self.proven else 'not proven'}: {self.why}"

    def as_json(self) -> dict[str, object]:
        """Return the fields."""
        return {"component": self.component, "proven": self.proven, "why": self.why}


def check_of(component: Component) -> tuple[str, ...]:
    """Return the check of a component: its own, or else its database's; empty if it has none."""
    return programs_of(component).check if by_programs(component.driver) else component.check


def ask(site: Site, name: str, component: Component) -> str:
    """Run a component's check, and return its answer.

    Raises:
        NotFound: its service does not run.
        ToolFailed: it failed, or its answer is too long to be kept.
        Unreachable: it did not answer in time.
    """
    with opened(site, component) as place:
        done = programs.run(
            place.engine,
            place.container,
            check_of(component),
            number=place.number,
            timeout=PATIENCE,
            exact=True,
            on_line=lambda _: None,  # with a listener only the end of a long answer is kept
            redact=redacting(site, place.engine, place.container),
        )
    if not done.ok:
        raise ToolFailed(
            "check-failed",
            f"The check of {name} failed: {check_of(component)[0]} in the container exited with {done.exit_code}.",
            evidence=done.last_lines(8),
        )
    answer = printable(done.stdout.raw).removesuffix("\n")
    if len(answer) > LARGEST:
        raise ToolFailed(
            "check-too-long",
            f"The check of {name} prints more than {LARGEST >> 10} KiB.",
            next_command="let it print counts or sums, not the data themselves",
        )
    return answer


def dumped(task: Dumping) -> ComponentRecord:
    """Dump a component, and record its check's answers before and after; it is degraded if the check fails."""
    if not check_of(task.component):
        return dump(task)
    try:
        first = ask(task.site, task.name, task.component)
    except NotFound:  # its files are dumped, and later exchanged, at rest; or its dump fails for the same reason
        return dump(task)
    except ConcheError as error:
        return _unproven(task, dump(task), error)
    record = dump(task)
    try:
        answers = dict.fromkeys((first, ask(task.site, task.name, task.component)))
    except ConcheError as error:
        return _unproven(task, record, error)
    answered = {ASKED: _asked(task.component), **dict(zip((BEFORE, AFTER), answers, strict=False))}
    return record.model_copy(update={"facts": {**record.facts, **answered}})


def _asked(component: Component) -> str:
    """Return what tells one check from another; a driver's own stays the same when its script is improved."""
    parts = (component.driver, component.database, component.user, *component.check)
    return f"{'' if component.check else COUNTED}{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()}"


def _unproven(task: Dumping, record: ComponentRecord, error: ConcheError) -> ComponentRecord:
    for line in (f"{task.name}: {error.message}", *(f"  | {line}" for line in error.evidence)):
        task.site.say(line)
    left_out = Omission(name=task.name, why=f"could not be proven after a restore: {error.message}", harmful=True)
    return record.model_copy(update={"left_out": (*record.left_out, left_out)})


def recorded(record: ComponentRecord) -> tuple[str, ...]:
    """Return the check's answers before and after the dump; nothing if it was not run."""
    return tuple(record.facts[name] for name in (BEFORE, AFTER) if name in record.facts)


Likeness = Literal["same", "unclear", "other"]


def compared(then: Sequence[str], now: str) -> Likeness:
    """Compare an answer with those before and after the dump; unclear if it differs only in what moved meanwhile."""
    if now in then:
        return "same"
    if len(then) < 2:
        return "other"
    first, second, third = (NUMBER.split(one) for one in (*then, now))
    if len({len(first), len(second), len(third)}) > 1 or first[::2] != second[::2]:
        return "other" if first[::2] == second[::2] else "unclear"
    rows = list(zip(first, second, third, strict=True))
    if any(one == two != three for one, two, three in rows):
        return "other"
    return "same" if all(_between(*row) for row in rows if row[0] != row[1]) else "unclear"


def _between(first: str, second: str, now: str) -> bool:
    low, high = sorted((Decimal(first), Decimal(second)))
    return low <= Decimal(now) <= high


def judged(name: str, record: ComponentRecord, before: str | None, now: str | None) -> Proof:
    """Return what the answers prove about a restored component.

    Args:
        before: the answer before the restore; None if there was none.
        now: the answer after it; None if the component has no check.

    Raises:
        CheckFailed: the component is not what was backed up.
    """
    then = recorded(record)
    if now is None:
        return Proof(name, proven=False, why="it has no check to compare the data with")
    if not then:
        return Proof(
            name, proven=False, why="the backup was made without its check, so there is nothing to compare with"
        )
    likeness = compared(then, now)
    if likeness == "same":
        same = ", and did so before the restore" if before == now else ""
        return Proof(name, proven=True, why=f"its check answers as it did at the time of the backup{same}")
    if likeness == "unclear":
        return Proof(
            name, proven=False, why="its data changed during the backup, and its check now answers differently"
        )
    raise _different(name, f"{name} was restored, but its check answers differently than in the backup.", then[0], now)


def judged_before(name: str, before: str | None, now: str | None, *, alone: bool) -> Proof:
    """Return what the answers prove about a component that has the data from before a restore again.

    Args:
        before: the answer before that restore; None if there was none.
        now: the answer now; None if the component has no check.
        alone: whether nothing wrote to it between the answer and the dump.

    Raises:
        CheckFailed: it does not hold what it held before the restore.
    """
    if now is None or before is None:
        return Proof(name, proven=False, why="it has no check, or had none before the restore")
    if before == now:
        return Proof(name, proven=True, why="its check answers as it did before the restore")
    if alone:
        require_same(name, before, now)
    return Proof(name, proven=False, why="its check answers differently; something may have written to it meanwhile")


def require_same(name: str, before: str, now: str) -> None:
    """Check that what was there before a restore is there again.

    Raises:
        CheckFailed: the check answers differently.
    """
    if before != now:
        raise _different(name, f"{name} has its old data again, but its check answers differently.", before, now)


def _different(name: str, message: str, wanted: str, now: str) -> CheckFailed:
    return CheckFailed(
        "restore-differs",
        message,
        evidence=[f"wanted: {_short(wanted)}", f"now:    {_short(now)}"],
        next_command=f"list what writes to it under `services` of {name} in stack.yaml, or correct `restore`",
    )


def _short(answer: str) -> str:
    """Return an answer as one line, without control characters that a terminal would obey."""
    said = ascii(answer)
    return said if len(said) <= SHOWN else f"{said[:SHOWN]}…"
