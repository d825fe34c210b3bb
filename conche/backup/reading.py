"""How a component's sources are read, what is left out of a backup, and what was seen of what is in it."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from tarfile import TarInfo

from conche.backup.sight import Sight
from conche.backup.strict import leads_out

__all__ = ["LeftOut", "Reading"]

NEVER = (".env", ".env.*", ".sops", ".git", ".backup", ".venv", ".nox", "__pycache__", "node_modules", "*.pyc")
"""Names that no local component backs up: secrets, and what can be generated again."""
ALWAYS = (".env.example",)

LEADS_OUT = "is a link that leads outside: an archive with it could not be restored; exclude it"


@dataclass(frozen=True)
class LeftOut:
    """Something that is not in the backup.

    Attributes:
        why: a few words, such as `is a socket`.
        harmful: somebody will miss it, so the backup is degraded.
    """

    name: str
    why: str
    harmful: bool = False


@dataclass
class Reading:
    """How to read a component's sources, and what was left out.

    Attributes:
        grows: files may grow while they are read, such as logs; they are read up to their initial size.
        searched: search contents for private keys.
        inside: leave out links that lead outside, since an archive with them would be refused.
        second_names: files that the stream has only as hard links to what is left out; request each on its own.
        top: the folder that is read is an entry itself, by the name `.`.
        first_names: names of files that were read and have others, by what identifies each.
        sight: what was seen of what is stored.
    """

    exclude: Sequence[str] = ()
    grows: bool = False
    searched: bool = True
    inside: bool = False
    top: bool = False
    left_out: list[LeftOut] = field(default_factory=list)
    second_names: list[str] = field(default_factory=list)
    first_names: dict[tuple[int, int, int], str] = field(default_factory=dict)
    sight: Sight = field(default_factory=Sight)
    _once: set[tuple[str, str]] = field(default_factory=set)

    @cached_property
    def _rules(self) -> re.Pattern[str]:
        """All rules in one pattern: a tree may have a hundred thousand names."""
        return re.compile("|".join(fnmatch.translate(rule) for rule in (*NEVER, *self.exclude)))

    def leave_out(self, name: str, why: str, *, harmful: bool = False) -> None:
        """Record that something is not in the backup."""
        self.left_out.append(LeftOut(name, why, harmful))

    def leave_out_once(self, name: str, why: str, *, harmful: bool = False) -> None:
        """Record what may be found several times, such as by several patterns."""
        if (name, why) not in self._once:
            self._once.add((name, why))
            self.leave_out(name, why, harmful=harmful)

    def refuses_link(self, info: TarInfo) -> bool:
        """Return whether a link would make the archive unrestorable; if so, record that it is left out."""
        refused = self.inside and leads_out(os.fsencode(info.name), os.fsencode(info.linkname))
        if refused:
            self.leave_out(info.name, LEADS_OUT, harmful=True)
        return refused

    def excludes(self, name: str) -> bool:
        """Return whether the rules leave out a path, by its last name or as a whole."""
        last = name.rpartition("/")[2]
        if last in ALWAYS:
            return False
        return bool(self._rules.match(last) or self._rules.match(name))

    def excludes_own(self, name: str) -> bool:
        """Return whether the component's own rules leave out a path or a folder above it."""
        parts = name.split("/")
        return any(
            fnmatch.fnmatch(part, rule) or fnmatch.fnmatch("/".join(parts[: place + 1]), rule)
            for rule in self.exclude
            for place, part in enumerate(parts)
        )
