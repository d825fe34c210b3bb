"""The numbered formats of everything that Conche stores, and what happens when two versions of Conche meet.

Stored content carries the number of its format and the version that wrote it. A newer Conche reads every older format.
An older Conche that meets a newer format changes nothing there and names both versions: it cannot know what a change
would destroy. Content without a number predates the numbering and counts as format 0.

Raise a number when an older version would misread the content or lose part of it. Additions that an older version can
safely ignore need no new number.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from conche.errors import Refused

__all__ = ["EVERY", "Format", "WrittenByNewer"]

NUMBER, BY = "format", "conche"
"""The top-level keys of every format; they never change."""

_VERSION = re.compile(r"[0-9][0-9A-Za-z.+!-]{0,63}")


class WrittenByNewer(Refused):
    """Something was written by a later version of Conche: it may be read but not changed.

    Args:
        what: what was found, and where.
        by: the version that wrote it.
        number: the number of its format.
        known: the highest number that this version reads.
    """

    def __init__(self, what: str, by: str, number: int, known: int) -> None:
        from conche.version import version

        super().__init__(
            "format-newer",
            f"{what} was written by Conche {by} in format {number}. This is Conche {version()}, which knows format"
            f" {known} and changes nothing here.",
            looked_at=[what],
            next_command=f"use Conche {by} or later here",
        )
        self.by, self.number = by, number

    @property
    def brief(self) -> str:
        """A short form of the message."""
        return f"written by Conche {self.by} in format {self.number}"


@dataclass(frozen=True)
class Format:
    """How one kind of thing is stored.

    Attributes:
        name: what it is.
        number: the number that this version writes; it reads this and every earlier one.
        where: where it is stored.
    """

    name: str
    number: int
    where: str

    def stamped(self, content: Mapping[str, object]) -> dict[str, object]:
        """Return the content with the format's number and this version added, ready to be written."""
        from conche.version import version

        return {NUMBER: self.number, BY: version(), **content}

    def labels(self, prefix: str) -> dict[str, str]:
        """Return the number and this version as labels for an object in an engine."""
        return {f"{prefix}.{key}": str(value) for key, value in self.stamped({}).items()}

    def newer(self, content: object, where: str = "") -> WrittenByNewer | None:
        """Return the error for changing this content; None if this version knows its format."""
        number = number_of(content)
        if number <= self.number:
            return None
        assert isinstance(content, Mapping)
        by = str(content[BY])
        by = by if _VERSION.fullmatch(by) else "of another version"
        return WrittenByNewer(f"the {self.name}{where and f' {where}'}", by, number, self.number)

    def opened(self, content: Any, where: str = "") -> Any:
        """Return the content without its stamp; content without one is returned unchanged.

        Raises:
            WrittenByNewer: this version does not know its format.
        """
        problem = self.newer(content, where)
        if problem is not None:
            raise problem
        if not number_of(content):
            return content
        return {key: value for key, value in content.items() if key not in (NUMBER, BY)}

    def entries(self, content: Any, key: str, where: str = "") -> Any:
        """Return the value of `key`, empty if it is absent; in format 0 the whole content was that value.

        Raises:
            WrittenByNewer: this version does not know its format.
        """
        found = self.opened(content, where)
        return found.get(key, {}) if number_of(content) else found

    def labelled(self, labels: Mapping[str, str], prefix: str, where: str) -> None:
        """Check that this version knows the format of an object in an engine.

        Raises:
            WrittenByNewer: it does not.
        """
        number = labels.get(f"{prefix}.{NUMBER}", "")
        said = {NUMBER: int(number) if number.isdecimal() else 0, BY: labels.get(f"{prefix}.{BY}", "")}
        if problem := self.newer(said, where):
            raise problem


def number_of(content: object) -> int:
    """Return the format number of a content; 0 if it predates the numbering or is something else altogether."""
    if not isinstance(content, Mapping) or not isinstance(content.get(BY), str):
        return 0
    number = content.get(NUMBER)
    return number if isinstance(number, int) and not isinstance(number, bool) and number > 0 else 0


_STATE = "in the volume PROJECT-state of the environment's engine"
_TARGET = "in the folder of the backups"
_USER = "in ~/.local/state/conche/STACK"

RELEASE = Format("release record", 1, f"releases/rN/record.json {_STATE}")
ENDING = Format("ending of a release", 1, f"releases/rN/ending.json {_STATE}")
DOCUMENT = Format("document of a release", 2, f"releases/rN/document.age {_STATE}, encrypted")
STANDING = Format("stack before a release", 1, f"releases/rN/standing.age {_STATE}, encrypted")
FREEZE = Format("freeze", 1, f"frozen.json {_STATE}")
MAINTENANCE = Format("maintenance page", 1, f"maintenance.json {_STATE}")
SCALE = Format("wanted numbers of containers", 1, f"scale.json {_STATE}")
HANDOVER = Format("handover of a port", 1, f"handover.json {_STATE}")
SCALING = Format("scaling under way", 1, f"scaling.json {_STATE}")
LOCK = Format("lock", 1, "labels of the container PROJECT-lock in the environment's engine")
TWIN = Format("container kept aside", 1, "labels of containers NAME-before in the environment's engine")
MANIFEST = Format("manifest", 2, f"KIND/NAME/manifest.json {_TARGET}, as schema_")
TARGET = Format("mark of the backups", 2, f".conche-target {_TARGET}; stands for all that is in it")
CHECKED = Format("note of what was verified", 1, f".store/records/NAME.json {_TARGET}")
WAITING = Format("note of containers that wait", 1, f".store/*waiting.json {_TARGET}, one for each engine")
SCALED = Format("note of services scaled to nothing", 1, f".store/NUMBER.scaled.json {_TARGET}, one for each volume")

RUNNING = Format("note of a program that runs in a container", 1, f".store/NUMBER.running.json {_TARGET}")
JOURNAL = Format("journal of a restore", 2, ".backup/journal.json in the checkout")
RESTORED = Format("record of a restore", 1, ".backup/restored-NUMBER.json in the checkout")
ASIDE = Format("list of what restores have put aside", 1, ".backup/aside.json in the checkout")
SEEN = Format("memory of a target", 1, f"target-NUMBER.json {_USER}")
UNCHANGED = Format("memory of what was backed up", 1, f"unchanged-NUMBER.json {_USER}, one for each target")
SCHEDULED = Format("memory of a scheduled run", 1, f"run-NUMBER-ENTRY.json {_USER}")
DEFINITIONS = Format("memory of definitions", 1, f"definitions-PROJECT.json {_USER}")
PROFILES = Format("memory of profiles", 1, f"profiles-PROJECT.json {_USER}")
DEVELOPMENT = Format("development values", 1, f"ENVIRONMENT.json {_USER}")
RENDERED = Format("list of rendered secrets", 1, "in the folder of the secret files")

EVERY = tuple(one for one in list(vars().values()) if isinstance(one, Format))
"""All formats; docs/reference/formats.md lists the same."""
