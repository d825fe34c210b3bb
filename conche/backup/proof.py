"""Whether a restore brought back what was backed up: by what a component's `check` answers, then, before and now.

The answer is asked before a dump and after it, since an application may write meanwhile; both are kept with the backup.
A restore is proven by an answer that is one of the two, or lies between them in every number that has moved.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from conche.backup import running
from conche.backup.drivers import Dumping, dump, printable
from conche.backup.drivers.command import serving
from conche.backup.manifest import ComponentRecord, Omission
from conche.backup.site import Site
from conche.engine import programs
from conche.errors import CheckFailed, ConcheError, NotFound
from conche.process import ToolFailed
from conche.stack import Component

__all__ = ["Proof", "ask", "compared", "dumped", "judged", "recorded", "require_same"]

PATIENCE = 600.0
"""Seconds that a check has for its answer."""

LARGEST = 64 << 10
"""Characters of an answer: it stands in the manifest."""

SHOWN = 200
"""Characters of an answer that are shown where two differ."""

BEFORE, AFTER = "check", "check after"
"""The facts of a component that hold the answers; the second only where it is another one."""

NUMBER = re.compile(r"(\d+(?:\.\d+)?)")
"""Splits an answer into text and numbers, by turns."""


@dataclass(frozen=True)
class Proof:
    """What is known of a component after its restore.

    Attributes:
        why: in words.
    """

    component: str
    proven: bool
    why: str

    def __str__(self) -> str:
        return f"{self.component}: {'proven' if self.proven else 'not proven'}: {self.why}"

    def as_json(self) -> dict[str, object]:
        """The fields."""
        return {"component": self.component, "proven": self.proven, "why": self.why}


def ask(site: Site, name: str, component: Component) -> str:
    """What a component's check answers now.

    Raises:
        NotFound: its service does not run.
        ToolFailed: it failed, or answers more than is kept.
        Unreachable: it did not answer in time.
    """
    container = serving(site, component)
    with running.noted(site, component, container) as program:
        done = programs.run(
            program.engine,
            container.id,
            component.check,
            number=program.number,
            timeout=PATIENCE,
            exact=True,
            on_line=lambda _: None,  # with somebody who listens to each line no more than a long answer's end is kept
        )
    if not done.ok:
        raise ToolFailed(
            "check-failed",
            f"The check of {name} failed: {component.check[0]} in the container ended with {done.exit_code}.",
            evidence=done.last_lines(8),
        )
    answer = printable(done.stdout.raw).removesuffix("\n")
    if len(answer) > LARGEST:
        raise ToolFailed(
            "check-too-long",
            f"The check of {name} answers with more than {LARGEST >> 10} KiB.",
            next_command="let it answer with counts or sums, not with the data themselves",
        )
    return answer


def dumped(task: Dumping) -> ComponentRecord:
    """Dump a component, with what its check answers before and after; degraded where it does not answer."""
    if not task.component.check:
        return dump(task)
    try:
        first = ask(task.site, task.name, task.component)
    except NotFound:  # at rest it is dumped as files, and exchanged as such; or its dump fails for the same reason
        return dump(task)
    except ConcheError as error:
        return _unproven(task, dump(task), error)
    record = dump(task)
    try:
        answers = dict.fromkeys((first, ask(task.site, task.name, task.component)))
    except ConcheError as error:
        return _unproven(task, record, error)
    return record.model_copy(update={"facts": {**record.facts, **dict(zip((BEFORE, AFTER), answers, strict=False))}})


def _unproven(task: Dumping, record: ComponentRecord, error: ConcheError) -> ComponentRecord:
    for line in (f"{task.name}: {error.message}", *(f"  | {line}" for line in error.evidence)):
        task.site.say(line)
    left_out = Omission(name=task.name, why=f"could not be proven after a restore: {error.message}", harmful=True)
    return record.model_copy(update={"left_out": (*record.left_out, left_out)})


def recorded(record: ComponentRecord) -> tuple[str, ...]:
    """What the check answered around the dump; nothing where it was not asked."""
    return tuple(record.facts[name] for name in (BEFORE, AFTER) if name in record.facts)


Likeness = Literal["same", "unclear", "other"]


def compared(then: Sequence[str], now: str) -> Likeness:
    """How an answer compares with those around the dump; unclear where only that differs which moved meanwhile."""
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
    """What the answers prove of a restored component.

    Args:
        before: the answer before the restore; None where there was none.
        now: the answer after it; None where the component has no check.

    Raises:
        CheckFailed: it is not what was backed up.
    """
    then = recorded(record)
    if now is None:
        return Proof(name, proven=False, why="it has no check that answers what is there")
    if not then:
        return Proof(name, proven=False, why="the backup was made without its check, and has no answer to compare with")
    likeness = compared(then, now)
    if likeness == "same":
        same = ", and did so before the restore" if before == now else ""
        return Proof(name, proven=True, why=f"its check answers as it did when it was backed up{same}")
    if likeness == "unclear":
        return Proof(
            name, proven=False, why="its data changed while they were backed up, and its check answers otherwise now"
        )
    raise _different(name, f"{name} was restored, and its check answers otherwise than in the backup.", then[0], now)


def require_same(name: str, before: str, now: str) -> None:
    """See that what was there before a restore is there again.

    Raises:
        CheckFailed: the check answers otherwise.
    """
    if before != now:
        raise _different(name, f"{name} was given its old data again, and its check answers otherwise.", before, now)


def _different(name: str, message: str, wanted: str, now: str) -> CheckFailed:
    return CheckFailed(
        "restore-differs",
        message,
        evidence=[f"wanted: {_short(wanted)}", f"now:    {_short(now)}"],
        next_command=f"name what writes to it under `services` of {name} in stack.yaml, or mend `restore`",
    )


def _short(answer: str) -> str:
    """An answer on one line, without anything that a terminal would obey."""
    said = ascii(answer)
    return said if len(said) <= SHOWN else f"{said[:SHOWN]}…"
