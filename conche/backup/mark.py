"""The mark that identifies a target: a disk that is not mounted leaves an empty folder in its place."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from conche.backup import within
from conche.errors import Unreachable
from conche.files import state_folder, write_atomic
from conche.formats import SEEN, TARGET, number_of

__all__ = ["FILE", "Mark"]

FILE = ".conche-target"

REMEMBERED = 20
"""Number of marks that are remembered for one path: disks may take turns there."""

LARGEST = 4096
"""Maximum bytes of a mark that are read."""


@dataclass(frozen=True)
class Mark:
    """The mark of a target, and what this user's state folder remembers of it."""

    folder: Path
    stack: str

    def require(self) -> None:
        """Check that a target that had a mark still has one.

        Raises:
            Unreachable: it has none, so another folder must be in its place.
        """
        if self.is_lost():
            raise Unreachable(
                "target-not-mounted",
                f"{self.folder} is not the usual target: its mark {FILE} is missing. Is the disk mounted?",
                looked_at=[str(self.folder / FILE), f"{self._state}: last seen at {self._seen()}"],
                next_command=f"findmnt --target {self.folder.parent}    # then mount it"
                "\ninvoke backup.create daily --new-target    # only to start afresh there",
            )

    def is_lost(self) -> bool:
        """Return whether `require` would refuse."""
        return self._present() is None and (bool(self._remembered()) or self._is_unreadable())

    def require_known(self) -> None:
        """Check that this version may change what is in the target.

        Raises:
            WrittenByNewer: a later version keeps backups there in a format that this one does not know.
        """
        for kind, file in ((TARGET, self.folder / FILE), (SEEN, self._state)):
            if problem := kind.newer(_read(file), str(file)):
                raise problem

    def settle(self) -> None:
        """Write the mark if there is none or only an older one, and remember it.

        After a kill between the two, the next call completes it.

        A full disk, or a state folder that cannot be written, must not prevent pruning or a backup: see
        `is_remembered`.
        """
        number = self._present() or uuid.uuid4().hex
        with contextlib.suppress(OSError):
            # The mark tells older versions that they may no longer change anything, so it is raised before all else.
            if not self._present() or number_of(_read(self.folder / FILE)) < TARGET.number:
                mark = json.dumps(TARGET.stamped({"target": number}))
                write_atomic(self.folder / FILE, mark.encode() + b"\n", mode=0o600)
        if not self._present():
            return
        with contextlib.suppress(OSError):
            others = [one for one in self._remembered() if one != number]
            seen = datetime.now(UTC).isoformat()
            content = {"folder": str(self.folder), "marks": [*others, number][-REMEMBERED:], "seen": seen}
            self._state.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomic(self._state, json.dumps(SEEN.stamped(content)).encode(), mode=0o600)

    @property
    def number(self) -> str | None:
        """The target's number; None if there is no mark, empty if it cannot be read."""
        return self._present()

    def is_remembered(self) -> bool:
        """Return whether the absence of this mark would be noticed."""
        return self._present() in self._remembered()

    def sweep(self) -> None:
        """Remove files that a kill has left half-written."""
        for half in self.folder.glob(f".{FILE}.????????"):
            half.unlink(missing_ok=True)
        for half in self._state.parent.glob(f".{self._state.name}.????????"):
            half.unlink(missing_ok=True)

    @property
    def _state(self) -> Path:
        place = hashlib.sha256(str(self.folder).encode(errors="surrogateescape")).hexdigest()[:16]
        return state_folder() / self.stack / f"target-{place}.json"

    def _present(self) -> str | None:
        """Return the target's number; None if there is no mark, empty if it cannot be read."""
        try:
            (self.folder / FILE).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError:
            return ""
        found = _read(self.folder / FILE)
        return str(found["target"]) if isinstance(found, dict) and "target" in found else ""

    def _seen(self) -> str:
        found = _read(self._state)
        return str(found["seen"]) if isinstance(found, dict) and "seen" in found else "an unknown time"

    def _is_unreadable(self) -> bool:
        """Return whether something is remembered that cannot be read: this target may have had a mark then."""
        found = _read(self._state)
        return os.path.lexists(self._state) and not (isinstance(found, dict) and isinstance(found.get("marks"), list))

    def _remembered(self) -> list[str]:
        found = _read(self._state)
        marks = found.get("marks") if isinstance(found, dict) else None
        return [str(one) for one in marks] if isinstance(marks, list) else []


def _read(file: Path) -> object:
    """Return the JSON content of a small file; None if it cannot be read."""
    try:
        return json.loads(within.content(file.parent.resolve(), file.name, LARGEST))
    except (OSError, ValueError, RecursionError):
        return None
