"""Exchanging old data and new: written down first, done by renames, taken back where it fails.

The journal names what will be exchanged before anything is. What has been exchanged is told by inodes, and in a volume
by its own markers, so that a command that was killed at any point is finished or taken back by the next one.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from conche.engine import containers, volumes
from conche.engine.connection import Engine
from conche.errors import ConcheError
from conche.files import exchange, sync_folder, write_atomic

if TYPE_CHECKING:
    from conche.backup.site import Site

__all__ = ["Aside", "Journal", "Pair", "Swap", "forget", "recover"]

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
"""Puts what is staged in `.restore-ID` in the place of what is there; can be run again wherever it was ended."""

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
"""Takes that back, from wherever it was ended."""

FORGET = 'rm -rf ".pre-restore-$1"'


@dataclass(frozen=True)
class Pair:
    """A staged file or folder and the place it goes to, on one file system.

    Attributes:
        inode: of what is staged.
        fresh: nothing is at the place yet.
        base: for what no backup holds, such as a .env, and what moves on from the old folder to the new one: that
            folder, and the inode of the new one.
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
        """What no backup holds, at `name` below a folder that is exchanged, moves on into the new folder."""
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
        """Exchange, unless that has been done."""
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
        """Take it back, if it was done."""
        aside = Path(self.live + ".exchanged")
        if os.path.lexists(aside) and not os.path.lexists(self.staged):
            os.replace(aside, self.staged)
        if not self._done() or (self.base and Path(self.base).lstat().st_ino != self.base_inode):
            return
        if self.fresh:
            os.replace(self.live, self.staged)
        else:
            exchange(Path(self.staged), Path(self.live))
        sync_folder(Path(self.live).parent)

    def _done(self) -> bool:
        return os.path.lexists(self.live) and os.lstat(self.live).st_ino == self.inode


@dataclass(frozen=True)
class Swap:
    """A volume whose content is exchanged with what is staged in it."""

    engine: str | None
    volume: str

    def forward(self, number: str) -> None:
        """Exchange, from wherever an earlier try has ended."""
        volumes.run_beside(Engine(self.engine), self.volume, FORWARD, [number])

    def back(self, number: str) -> None:
        """Take it back; also removes what is only staged."""
        volumes.run_beside(Engine(self.engine), self.volume, BACK, [number])


@dataclass(frozen=True)
class Stopped:
    """A container that is stopped during the exchange and was running."""

    engine: str | None
    id: str
    name: str


@dataclass
class Journal:
    """What a restore is about to do.

    Attributes:
        number: of the restore; its staging folder is `restore-<number>`.
        fed: components whose running program is given the backup's data, or has been; what it held before is in the
            staging folder.
        done: the exchange is final: what is left is to clear up.
    """

    number: str
    pairs: list[Pair] = field(default_factory=list)
    swaps: list[Swap] = field(default_factory=list)
    stopped: list[Stopped] = field(default_factory=list)
    fed: list[str] = field(default_factory=list)
    done: bool = False

    def write(self, folder: Path) -> None:
        """Put it on disk before anything it names is touched."""
        write_atomic(folder / JOURNAL, json.dumps(asdict(self)).encode(), mode=0o600)

    @classmethod
    def read(cls, folder: Path) -> Journal | None:
        """What an interrupted restore has left, if one has."""
        try:
            content = json.loads((folder / JOURNAL).read_text())
        except FileNotFoundError:
            return None
        return cls(
            content["number"],
            [Pair(**one) for one in content["pairs"]],
            [Swap(**one) for one in content["swaps"]],
            [Stopped(**one) for one in content["stopped"]],
            content["fed"],
            content["done"],
        )

    def staging(self, folder: Path) -> Path:
        """Where new data are before the exchange, and old ones after it."""
        return folder / f"restore-{self.number}"

    def forward(self) -> None:
        """Exchange everything."""
        for pair in self.pairs:
            pair.forward()
        for swap in self.swaps:
            swap.forward(self.number)

    def back(self) -> None:
        """Take everything back, the last first; goes on after a failure, and raises the first one at its end."""
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

    def start(self) -> None:
        """Start what was stopped."""
        for one in self.stopped:
            engine = Engine(one.engine)
            seen = containers.read(engine, one.id)
            if seen is not None and seen.state in ("exited", "created"):
                containers.start(engine, one.id)

    def close(self, folder: Path) -> None:
        """The end of a restore: what is in the staging folder now is the old data, or is not wanted."""
        staging = self.staging(folder)
        if self.done and staging.exists():
            os.replace(staging, folder / f"pre-restore-{self.number}")
        elif staging.exists():
            shutil.rmtree(staging)
        if self.done and self.swaps:
            Aside.add(folder, self.number, self.swaps)
        (folder / JOURNAL).unlink()


@dataclass(frozen=True)
class Aside:
    """Old data that a restore has put aside in a volume."""

    number: str
    engine: str | None
    volume: str

    @classmethod
    def add(cls, folder: Path, number: str, swaps: Sequence[Swap]) -> None:
        """Remember the old data of these volumes."""
        every = {*cls.every(folder), *(cls(number, swap.engine, swap.volume) for swap in swaps)}
        content = json.dumps([asdict(one) for one in sorted(every, key=str)])
        write_atomic(folder / KEPT, content.encode(), mode=0o600)

    @classmethod
    def every(cls, folder: Path) -> list[Aside]:
        """All that is known."""
        with contextlib.suppress(OSError, ValueError, TypeError):
            return [cls(**one) for one in json.loads((folder / KEPT).read_text())]
        return []


def recover(site: Site) -> None:
    """Finish or take back what a killed restore has left."""
    journal = Journal.read(site.own)
    if journal is not None:
        site.say("a killed restore is " + ("finished" if journal.done else "taken back"))
        if not journal.done:
            journal.back()
        for swap in journal.swaps:
            volumes.clear_helpers(Engine(swap.engine), swap.volume)
        journal.start()
        if journal.fed and not journal.done:
            from conche.backup import online

            online.take_back(site, journal)
        journal.close(site.own)
    for left in site.own.glob("restore-*"):
        shutil.rmtree(left, ignore_errors=True)
    for half in [*site.own.glob(".*.json.????????"), *site.own.glob("..gitignore.????????")]:
        half.unlink(missing_ok=True)


def forget(site: Site) -> None:
    """Remove the old data that restores have put aside: a good backup has been made since."""
    for old in site.own.glob("pre-restore-*"):
        site.say(f"removing what a restore had put aside: {old}")
        shutil.rmtree(old, ignore_errors=True)
    every = Aside.every(site.own)
    if not every:
        return
    for one in every:
        try:
            volumes.run_beside(Engine(one.engine), one.volume, FORGET, [one.number])
        except ConcheError as error:
            site.say(f"warning: the old data in {one.volume} could not be removed: {error.message}")
            return
    (site.own / KEPT).unlink()
