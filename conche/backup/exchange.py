"""Exchanges old data and new: journalled first, done by renames, taken back if it fails.

The journal names everything that will be exchanged before the exchange begins. Inodes, and marker files in a volume,
tell what has been exchanged already, so the next command can finish or take back one that was killed at any point.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from conche import formats
from conche.backup import notes
from conche.engine import volumes
from conche.engine.connection import Engine
from conche.errors import CheckFailed, ConcheError
from conche.files import exchange, sync_folder, write_atomic

__all__ = ["BACK", "FORGET", "JOURNAL", "KEPT", "Aside", "Journal", "Pair", "Stopped", "Swap", "staged_in"]

JOURNAL = "journal.json"
KEPT = "aside.json"

FORWARD = """
if [ -d ".restore-$1" ] && [ ! -e ".restore-$1.moving" ]; then
  mkdir -p ".pre-restore-$1"
  for f in ./* ./.[!.]* ./..?*; do
    [ -e "$f" ] || [ -L "$f" ] || continue
    case "$f" in ./.restore-* | ./.pre-restore-*) continue ;; esac
    mv "$f" ".pre-restore-$1/"
  done
  : > ".restore-$1.moving"
fi
if [ -d ".restore-$1" ]; then
  for f in ".restore-$1"/* ".restore-$1"/.[!.]* ".restore-$1"/..?*; do
    [ -e "$f" ] || [ -L "$f" ] || continue
    mv "$f" ./
  done
  rmdir ".restore-$1"
fi
rm -f ".restore-$1.moving"
"""
"""Replaces a volume's content by what is staged in `.restore-ID`; can be run again wherever it was interrupted."""

BACK = """
if [ -d ".pre-restore-$1" ]; then
  if [ -e ".restore-$1.moving" ] || [ ! -d ".restore-$1" ]; then
    mkdir -p ".restore-$1"
    : > ".restore-$1.moving"
    for f in ./* ./.[!.]* ./..?*; do
      [ -e "$f" ] || [ -L "$f" ] || continue
      case "$f" in ./.restore-* | ./.pre-restore-*) continue ;; esac
      mv "$f" ".restore-$1/"
    done
    rm -f ".restore-$1.moving"
  fi
  for f in ".pre-restore-$1"/* ".pre-restore-$1"/.[!.]* ".pre-restore-$1"/..?*; do
    [ -e "$f" ] || [ -L "$f" ] || continue
    mv "$f" ./
  done
  rmdir ".pre-restore-$1"
fi
rm -rf ".restore-$1" ".restore-$1.moving"
"""
"""Takes `FORWARD` back, from wherever it was interrupted."""

FORGET = 'rm -rf ".pre-restore-$1"'


@dataclass(frozen=True)
class Pair:
    """A staged file or folder and the place it goes to, on one file system.

    Attributes:
        inode: the inode of what is staged.
        fresh: whether nothing exists at the place yet.
        base: only for what no backup holds, such as a .env, and what therefore moves from the old folder to the new
            one: the path of that folder.
        base_inode: the inode of the new folder.
    """

    staged: str
    live: str
    inode: int
    fresh: bool
    base: str = ""
    base_inode: int = 0

    @classmethod
    def of(cls, staged: Path, live: Path) -> Pair:
        return cls(str(staged), str(live), staged.lstat().st_ino, not os.path.lexists(live))

    @classmethod
    def carrying(cls, folder: Pair, name: str) -> Pair:
        """Return the pair that moves `name`, which no backup holds, from an exchanged folder into the new one."""
        live = Path(folder.live) / name
        return cls(
            str(Path(folder.staged) / name),
            str(live),
            live.lstat().st_ino,
            fresh=True,
            base=folder.live,
            base_inode=folder.inode,
        )

    def forward(self) -> None:
        """Exchange the two, unless that is done already."""
        if self._done() or (self.base and os.path.lexists(self.live)):
            return
        live = Path(self.live)
        live.parent.mkdir(parents=True, exist_ok=True)
        if self.fresh:
            os.replace(self.staged, live)
        else:
            exchange(Path(self.staged), live)
        sync_folder(live.parent)

    def back(self) -> None:
        """Take the exchange back, if it was done."""
        aside = Path(self.live + ".exchanged")
        if os.path.lexists(aside):  # the three renames of `exchange` were interrupted
            if os.path.lexists(self.staged) and not os.path.lexists(self.live):
                os.replace(self.staged, self.live)
            if not os.path.lexists(self.staged):
                os.replace(aside, self.staged)
        if not self._done() or (self.base and Path(self.base).lstat().st_ino != self.base_inode):
            return
        if self.fresh:
            os.replace(self.live, self.staged)
        else:
            exchange(Path(self.staged), Path(self.live))
        sync_folder(Path(self.live).parent)

    def _done(self) -> bool:
        if os.path.lexists(self.live) and os.lstat(self.live).st_ino == self.inode:
            return True
        # What was exchanged may have been written anew since; then what was there before is where it was staged.
        exchanges = not (self.fresh or self.base)
        return exchanges and os.path.lexists(self.staged) and os.lstat(self.staged).st_ino != self.inode


@dataclass(frozen=True)
class Swap:
    """A volume whose content is exchanged with what is staged inside it."""

    engine: str | None
    volume: str

    def forward(self, number: str) -> None:
        """Exchange the two, from wherever an earlier attempt was interrupted."""
        volumes.run_beside(Engine(self.engine), self.volume, FORWARD, [number])

    def back(self, number: str) -> None:
        """Take the exchange back; also removes what is only staged."""
        volumes.run_beside(Engine(self.engine), self.volume, BACK, [number])


@dataclass(frozen=True)
class Stopped:
    """A container that was running and is stopped for the exchange."""

    engine: str | None
    id: str
    name: str


@dataclass
class Journal:
    """What a restore is about to do.

    Attributes:
        number: the restore's number; its staging folder is `restore-<number>`.
        components: what is restored.
        begun: the exchange has begun.
        fed: components whose running program has been given the backup's data, or is just being given them; what it
            held before is in the staging folder.
        answers: what the checks of these components answered before.
        blind: those of them that could not be dumped before and have no way back.
        done: the exchange is final, and only clearing up is left.
        stuck: why a later command could not take it back; only `backup.settle` tries again.
    """

    number: str
    components: list[str] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    swaps: list[Swap] = field(default_factory=list)
    stopped: list[Stopped] = field(default_factory=list)
    begun: bool = False
    fed: list[str] = field(default_factory=list)
    answers: dict[str, str] = field(default_factory=dict)
    blind: list[str] = field(default_factory=list)
    done: bool = False
    stuck: str = ""

    def write(self, folder: Path) -> None:
        """Write the journal to disk; do so before touching anything that it names."""
        content = json.dumps(formats.JOURNAL.stamped(asdict(self)))
        write_atomic(folder / JOURNAL, content.encode(), mode=0o600)

    @classmethod
    def read(cls, folder: Path) -> Journal | None:
        """Return the journal that an interrupted restore has left; None if there is none.

        Raises:
            WrittenByNewer: a later version has begun the restore and has to end it.
            CheckFailed: the journal is damaged; what was begun is left alone.
            Refused: this user may not read it.
        """
        try:
            return notes.read(folder / JOURNAL, formats.JOURNAL, cls._of)
        except notes.Damaged as error:
            raise _damaged(folder) from error

    @classmethod
    def is_damaged(cls, folder: Path) -> bool:
        """Return whether a journal is there that cannot be understood; raises what `read` raises of any other."""
        try:
            cls.read(folder)
        except CheckFailed:
            return True
        return False

    @classmethod
    def _of(cls, content: Any) -> Journal:
        # Earlier versions did not record all of this; the staging folder has a folder for each component.
        staged = [Path(one["staged"]).parts for one in content["pairs"]]
        names = {parts[parts.index(f"restore-{content['number']}") + 1] for parts in staged}
        return cls(
            content["number"],
            content.get("components", sorted({*names, *content["fed"], *(one["volume"] for one in content["swaps"])})),
            [Pair(**one) for one in content["pairs"]],
            [Swap(**one) for one in content["swaps"]],
            [Stopped(**one) for one in content["stopped"]],
            content.get("begun", True),
            content["fed"],
            content.get("answers", {}),
            content.get("blind", []),
            content["done"],
            content.get("stuck", ""),
        )

    def staging(self, folder: Path) -> Path:
        """Return the folder that holds the new data before the exchange and the old data after it."""
        return folder / f"restore-{self.number}"

    def forward(self) -> None:
        """Exchange everything."""
        for pair in self.pairs:
            pair.forward()
        for swap in self.swaps:
            swap.forward(self.number)

    def back(self) -> None:
        """Take everything back in reverse order; go on after failures, and raise the first one at the end."""
        problems: list[Exception] = []
        for swap in reversed(self.swaps):
            try:
                swap.back(self.number)
            except (ConcheError, OSError) as error:
                problems.append(error)
        for pair in reversed(self.pairs):
            try:
                pair.back()
            except OSError as error:
                problems.append(error)
        if problems:
            raise problems[0]

    def close(self, folder: Path) -> None:
        """End the restore: put the old data in the staging folder aside if it is done, else remove what is there."""
        staging = self.staging(folder)
        if self.done and staging.exists():
            os.replace(staging, folder / f"pre-restore-{self.number}")
        elif staging.exists():
            shutil.rmtree(staging)
        if self.done:
            Aside.add(folder, self)
        (folder / JOURNAL).unlink()


def _damaged(folder: Path) -> CheckFailed:
    """Return the error of a journal that cannot be understood, with what may be half exchanged as far as it shows."""
    staged = [f"{one}, of {', '.join(sorted(below.name for below in one.iterdir()))}" for one in staged_in(folder)]
    return CheckFailed(
        "journal-damaged",
        f"The journal of a restore {folder / JOURNAL} is damaged, so how far the restore got is not known.",
        looked_at=[
            str(folder / JOURNAL),
            *(f"{one}: the data to restore, or those from before" for one in staged),
            "the volumes it restored: .restore-… and .pre-restore-… in them, likewise",
        ],
        next_command="invoke backup.settle --as-it-is    # leave it; the old data are kept",
    )


def staged_in(folder: Path) -> list[Path]:
    """Return the staging folders that restores have left."""
    return sorted(one for one in folder.glob("restore-*") if one.is_dir())


@dataclass(frozen=True)
class Aside:
    """Old data that a restore has put aside, either inside a volume or from a path of the checkout.

    Attributes:
        live: that path; its old data are in `pre-restore-<number>`.
    """

    number: str
    engine: str | None
    volume: str
    live: str = ""

    @classmethod
    def add(cls, folder: Path, journal: Journal) -> None:
        """Record what a restore has put aside."""
        found = {cls(journal.number, swap.engine, swap.volume) for swap in journal.swaps}
        found |= {cls(journal.number, None, "", one.live) for one in journal.pairs if not (one.fresh or one.base)}
        if found:
            cls.write(folder, {*cls.every(folder), *found})

    @classmethod
    def write(cls, folder: Path, every: Collection[Aside]) -> None:
        """Replace the list by these."""
        if not every:
            (folder / KEPT).unlink(missing_ok=True)
            return
        content = [asdict(one) for one in sorted(every, key=str)]
        write_atomic(folder / KEPT, json.dumps(formats.ASIDE.stamped({"aside": content})).encode(), mode=0o600)

    @classmethod
    def every(cls, folder: Path) -> list[Aside]:
        """Return everything on the list.

        Raises:
            WrittenByNewer: a later version has written the list.
            Damaged: it cannot be understood; nothing that it may be about is deleted.
            Refused: this user may not read it.
        """
        return notes.read(folder / KEPT, formats.ASIDE, cls._listed) or []

    @classmethod
    def is_damaged(cls, folder: Path) -> bool:
        """Return whether a list is there that cannot be understood; raises what `every` raises of any other."""
        try:
            cls.every(folder)
        except notes.Damaged:
            return True
        return False

    @classmethod
    def _listed(cls, content: Any) -> list[Aside]:
        # In format 0 the whole content was the list.
        return [cls(**one) for one in (content if isinstance(content, list) else content["aside"])]
