"""Step, Plan, Outcome: what a command will do, does, and has done.

A plan is a value. The same plan is the dry run, the table, the JSON and what tests compare; nothing here does anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field

__all__ = ["Json", "Outcome", "Plan", "Step", "Table"]

Json = object
"""Anything `json.dumps` takes; `Secret` and dataclasses are handled by the module that prints."""


@dataclass(frozen=True)
class Step:
    """One thing a command does.

    Attributes:
        action: a verb of the glossary, for example `build`.
        subject: what it is done to, for example `image localhost:5000/chocolate-factory:develop`.
        cause: why, for example `no such image on the engine`.
        undo: how it is taken back when a later step fails; empty if that is not needed.
        destroys: whether it deletes data.
    """

    action: str
    subject: str
    cause: str
    undo: str = ""
    destroys: bool = False

    @property
    def kind(self) -> str:
        """The first word of the subject: network, image, service, volume, container."""
        return self.subject.partition(" ")[0]

    @property
    def name(self) -> str:
        """The subject without its first word."""
        return self.subject.partition(" ")[2]

    def __str__(self) -> str:
        return f"{self.action} {self.subject}"


@dataclass(frozen=True)
class Plan:
    """The steps of a command, in order."""

    steps: tuple[Step, ...] = ()

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)

    def __len__(self) -> int:
        return len(self.steps)

    def as_json(self) -> list[dict[str, object]]:
        """Return one object per step, with the fields of `Step`."""
        return [asdict(step) for step in self.steps]


@dataclass(frozen=True)
class Table:
    """Text in rows and columns, without colour or width: the module that prints decides both."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    title: str = ""


@dataclass(frozen=True)
class Outcome:
    """What a command has done, or in a dry run would do.

    Attributes:
        value: the answer, as JSON can carry it.
        changed: whether anything is different now.
        plan: the steps that were, or would be, taken.
        tables: the answer for people.
        lines: short sentences after the tables, such as what to type next.
        warnings: shown on stderr, and in the JSON document.
        exit_code: 0, or 1 if a check found something.
        raw: text that is the answer by itself (logs, a rendered file), printed as it is.
    """

    value: Json = None
    changed: bool = False
    plan: Plan = field(default_factory=Plan)
    tables: Sequence[Table] = ()
    lines: Sequence[str] = ()
    warnings: Sequence[str] = ()
    exit_code: int = 0
    raw: str | None = None
