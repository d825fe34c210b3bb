"""Exchanges old data and new: journalled first, done by renames, taken back if it fails.

The journal names everything that will be exchanged before the exchange begins. Inodes, and marker files in a volume,
tell what has been exchanged already, so the next command can finish or take back one that was killed at any point.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from conche import formats
from conche.backup import notes
from conche.backup.swap import Swap
from conche.errors import CheckFailed, ConcheError
from conche.files import sync_folder, write_atomic
from conche.syscalls import exchange

__all__ = ["JOURNAL", "KEPT", "RESTORED", "Aside", "Journal", "Pair", "Stopped", "staged_in"]

JOURNAL = "journal.json"
KEPT = "aside.json"
RESTORED = "restored-"
"""Prefix of the name of the record of a restore that can be undone."""


@dataclass(frozen=True)
class Pair:
    """A staged file or folder and the place it goes to, on one file system.

    Attributes:
        inode: the inode of what is staged.
        fresh: whether nothing exists at the place yet.
        base: only for what no backup holds, such as a .env, and what therefore moves from the old folder to the new
            one: the path of that folder.
        base_inode: the inode of the new folder.
        gone: nothing takes the place of what is there, because nothing was there before the restore that is undone.
    """

    staged: str
    live: str
    inode: int
    fresh: bool
    base: str = ""
    base_inode: int = 0
    gone: bool = False

    @classmethod
    def of(cls, staged: Path, live: Path) -> Pair:
        return cls(str(staged), str(live), staged.lstat().st_ino, not os.path.lexists(live))

    @classmethod
    def removing(cls, place: Path, live: Path) -> Pair:
        """Return the pair that moves what is there to a place, and puts nothing in its stead."""
        return cls(str(place), str(live), live.lstat().st_ino, fresh=False, gone=True)

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
        if self.gone:
            _moved(Path(self.live), Path(self.staged))
            return
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
        if self.gone:
            _moved(Path(self.staged), Path(self.live))
            return
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


def _moved(source: Path, goal: Path) -> None:
    """Move a file or folder to a place where nothing is, unless that is done already."""
    if os.path.lexists(source) and not os.path.lexists(goal):
        goal.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.replace(source, goal)
        sync_folder(goal.parent)


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
        backup: the name of the backup that is restored.
        again: the number of the restore that is undone: what it has put aside takes the place of what is there.
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
    backup: str = ""
    again: str = ""

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
        # Earlier versions did not record all of this.
        return cls(
            content["number"],
            content["components"] if "components" in content else cls._named(content),
            [Pair(**one) for one in content["pairs"]],
            [Swap(**one) for one in content["swaps"]],
            [Stopped(**one) for one in content["stopped"]],
            content.get("begun", True),
            content["fed"],
            content.get("answers", {}),
            content.get("blind", []),
            content["done"],
            content.get("stuck", ""),
            content.get("backup", ""),
            content.get("again", ""),
        )

    @classmethod
    def _named(cls, content: Any) -> list[str]:
        """Return what a restore concerns; the staging folder has a folder for each component."""
        staged = [Path(one["staged"]).parts for one in content["pairs"]]
        names = {parts[parts.index(f"restore-{content['number']}") + 1] for parts in staged}
        return sorted({*names, *content["fed"], *(one["volume"] for one in content["swaps"])})

    def staging(self, folder: Path) -> Path:
        """Return the folder that holds the new data before the exchange and the old data after it."""
        return folder / f"restore-{self.number}"

    def forward(self) -> None:
        """Exchange everything."""
        for pair in self.pairs:
            pair.forward()
        for swap in self.swaps:
            swap.forward(self.number, self.again)

    def back(self) -> None:
        """Take everything back in reverse order; go on after failures, and raise the first one at the end."""
        problems: list[Exception] = []
        for swap in reversed(self.swaps):
            try:
                swap.back(self.number, self.again)
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
        if self.done and self.again:
            self._gather(folder)
        if self.done and staging.exists():
            os.replace(staging, self.aside(folder))
        elif staging.exists():
            shutil.rmtree(staging)
        if self.done:
            Aside.add(folder, self)
            self._keep(folder)
        (folder / JOURNAL).unlink()

    def aside(self, folder: Path) -> Path:
        """Return the folder of the checkout for what this restore has put aside."""
        return folder / f"pre-restore-{self.number}"

    def kept(self, folder: Path, pair: Pair) -> Path:
        """Return where that folder has what a pair has put aside."""
        below = Path(pair.staged).relative_to(folder).parts[1:]
        return self.aside(folder).joinpath(*below)

    def _gather(self, folder: Path) -> None:
        """Move what was exchanged for what an undone restore had put aside to the rest of what is put aside now.

        Its dumps go: they are loaded.
        """
        old, staging = folder / f"pre-restore-{self.again}", self.staging(folder)
        if not old.exists():
            return
        staging.mkdir(mode=0o700, exist_ok=True)
        for one in old.iterdir():
            if one.name not in self.fed:
                os.replace(one, staging / one.name)
        shutil.rmtree(old)

    def _keep(self, folder: Path) -> None:
        """Keep a record of this restore, by which it can be undone, in place of that of the restore it has undone."""
        pairs = [replace(one, staged=str(self.kept(folder, one))) for one in self.pairs]
        content = json.dumps(formats.RESTORED.stamped(asdict(replace(self, pairs=pairs, stopped=[]))))
        write_atomic(folder / f"{RESTORED}{self.number}.json", content.encode(), mode=0o600)
        if self.again:
            replace(self, number=self.again).forget(folder)

    def forget(self, folder: Path) -> None:
        """Remove the record: nothing is left of what this restore put aside."""
        (folder / f"{RESTORED}{self.number}.json").unlink(missing_ok=True)

    @classmethod
    def restored(cls, folder: Path) -> tuple[list[Journal], list[Path]]:
        """Return the restores that can be undone, the oldest first, and the records that cannot be understood."""
        files = folder.glob(f"{RESTORED}*.json")
        return notes.told_apart(files, lambda file: notes.read(file, formats.RESTORED, cls._of))


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
        """Record what a restore has put aside, and that it has taken what it undid from there."""
        found = {cls(journal.number, swap.engine, swap.volume) for swap in journal.swaps}
        found |= {cls(journal.number, None, "", one.live) for one in journal.pairs if not (one.fresh or one.base)}
        before = cls.every(folder)
        others = {one for one in before if not journal.again or one.number != journal.again}
        if found or len(others) < len(before):
            cls.write(folder, {*others, *found})

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
