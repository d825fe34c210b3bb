"""What the components of earlier backups held, and in which backups each is sound: pure decisions over manifests."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from conche.backup.manifest import Artifact, ComponentRecord, Manifest, Omission, human_size
from conche.backup.tree import data_of
from conche.stack import Minimum

__all__ = [
    "ACCEPTED",
    "AFTER",
    "ASKED",
    "BEFORE",
    "COUNTED",
    "SMALL_PART",
    "Amount",
    "History",
    "Known",
    "amount",
    "history",
    "judged",
    "shrinkage",
]

SMALL_PART = 10
"""A component that keeps less than one part in this many of its bytes or entries has lost its data."""

ACCEPTED = "is smaller than before, and that was accepted"
"""The manifest's words for a component that was accepted by `--accept-smaller`."""


BEFORE, AFTER = "check", "check after"
"""The keys of a component's facts for the answers of its check; the second only if that answer is different."""

ASKED = "check asked"
"""The key of what gave these answers, `rows` for a driver's own check, and a digest: others cannot be compared."""

COUNTED = "rows "

SHOWN = 60
"""Maximum characters shown of an answer."""

ROWS = re.compile(r"(?:.*\s)?([0-9]{1,30})(?: rows)?")
"""A line of an answer that ends with a count, as the checks of databases do."""


@dataclass(frozen=True)
class Amount:
    """How much a component holds: bytes before compression, and the number of files, folders and links."""

    size: int
    entries: int

    def __str__(self) -> str:
        return f"{human_size(self.size)} in {self.entries} {'entry' if self.entries == 1 else 'entries'}"


@dataclass(frozen=True)
class Known:
    """The newest sound state of a component, and the name of the backup that has it."""

    backup: str
    record: ComponentRecord


@dataclass
class History:
    """What a series of backups tells about their components.

    Attributes:
        newest: the newest sound state of each component.
        sound: the sound components of each backup, by the backup's name.
    """

    newest: dict[str, Known] = field(default_factory=dict)
    sound: dict[str, frozenset[str]] = field(default_factory=dict)

    def complete(self, name: str, manifest: Manifest) -> bool:
        """Return whether a backup has everything it should, and no component is a remnant of what it was."""
        present = {one for one, record in manifest.components.items() if not record.absent}
        return manifest.complete and present <= self.sound[name]


def history(manifests: Iterable[tuple[str, Manifest]]) -> History:
    """Judge every component of every backup by the backups before it: older versions did not when making them."""
    told = History()
    for name, one in sorted(manifests, key=lambda pair: (pair[1].created, pair[0])):
        good = {part: record for part, record in one.components.items() if _is_sound(record, told.newest.get(part))}
        told.newest |= {part: Known(name, record) for part, record in good.items()}
        told.sound[name] = frozenset(good)
    return told


def _is_sound(record: ComponentRecord, before: Known | None) -> bool:
    if record.absent or record.harm:
        return False
    accepted = any(one.why.startswith(ACCEPTED) for one in record.left_out)
    return accepted or before is None or not shrinkage(before.record, record)


def amount(record: ComponentRecord) -> Amount:
    """Return how much a component holds."""
    return _sum(data_of(record), len(record.links))


def shrinkage(before: ComponentRecord, now: ComponentRecord) -> str:
    """Return why a component seems to have lost its data, with both figures; empty if it does not.

    Logs come and go by themselves, and a different way of dumping gives a different size.
    """
    ways = {(one.driver, one.facts.get("form", "")) for one in (before, now)}
    if now.driver == "logs" or now.absent:
        return ""
    parts = [(now.driver, amount(before), amount(now)), *_archives(before, now)]
    for name, old, new in parts:
        if old.size and not new.size:
            return f"is empty{_of(name, now)}: {new}, down from {old}"
        if len(ways) == 1 and (new.size * SMALL_PART < old.size or new.entries * SMALL_PART < old.entries):
            return f"has lost most of its data{_of(name, now)}: {new}, down from {old}"
    asked = now.facts.get(ASKED)
    if asked is None or asked != before.facts.get(ASKED):
        return ""
    return _fewer_rows(before.facts.get(BEFORE, ""), now.facts.get(BEFORE, ""), counted=asked.startswith(COUNTED))


def _fewer_rows(before: str, now: str, *, counted: bool) -> str:
    """Return why a database seems to have lost its rows, though its dump still has all tables, by its check's answers.

    Of a check that somebody wrote, which may answer with a hash, all that is known is that every number has become 0.
    """
    old, new = (_rows(before), _rows(now)) if counted else (None, None)
    if old is not None and new is not None:
        return f"has lost most of its rows: {new}, down from {old}" if new * SMALL_PART < old else ""
    if re.search("[1-9]", before) and not re.search("[1-9]", now) and (re.search("0", now) or not now.strip()):
        return f"is empty: its check answers {_short(now)}, and answered {_short(before)}"
    return ""


def _rows(answer: str) -> int | None:
    """Return the sum of the counts at the ends of an answer's lines; None if one line has none."""
    found = [ROWS.fullmatch(line) for line in answer.splitlines()]
    return sum(int(one[1]) for one in found if one) if all(found) else None


def _short(answer: str) -> str:
    return repr(answer if len(answer) <= SHOWN else f"{answer[:SHOWN]}…")


def judged(
    name: str, record: ComponentRecord, before: Known | None, least: Minimum | None, accepted: bool
) -> ComponentRecord:
    """Return a component's record, with what is wrong with its size compared to earlier backups added to it.

    Args:
        least: the minimum that stack.yaml declares.
        accepted: the user says that it may hold less than before.
    """
    now, found = amount(record), []
    if least and (now.size < least.size or now.entries < least.entries):
        wanted = Amount(least.size, least.entries)
        found.append(Omission(name=name, why=f"is below its min: {now}, but {wanted} needed", harmful=True))
    if before and (lost := shrinkage(before.record, record)):
        lost = f"{lost} in {before.backup}"
        why = f"{ACCEPTED}: {lost}" if accepted else lost
        found.append(Omission(name=name, why=why, harmful=not accepted))
    return record.model_copy(update={"left_out": (*record.left_out, *found)})


def _of(name: str, record: ComponentRecord) -> str:
    return "" if name == record.driver else f" in {name}"


def _archives(before: ComponentRecord, now: ComponentRecord) -> Iterator[tuple[str, Amount, Amount]]:
    """Yield the archives that both have: a single folder of several may be on a disk that is not mounted."""
    old: Mapping[str, Artifact] = {one.path: one for one in data_of(before) if one.members}
    for one in data_of(now):
        if one.path in old:
            yield one.path, _sum([old[one.path]]), _sum([one])


def _sum(artifacts: Iterable[Artifact], links: int = 0) -> Amount:
    size = entries = 0
    for one in artifacts:
        size += one.content if one.members or one.pieces else one.size
        entries += one.members or 1
    return Amount(size, entries + links)
