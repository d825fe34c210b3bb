"""Runs tasks of a checkout with a fault at one durable operation, and says what has to be true afterwards.

`nox -s tests` tries no two faults at an operation that leave the same behind: a kill after an operation leaves what a
kill before the next one does, unless the operation has started a program, and errors that say that nothing more can be
written take turns, as signals do. `nox -s long -- steps` tries every fault at every operation.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from conche.backup import manifest
from conche.backup.verify import check
from tests import warm
from tests.backup.checkouts import Checkout
from tests.stacks import ROOT

OWN = (".backup", "logs")

COMPONENTS = tuple(f"--component={name}" for name in ("models", "code", "config"))

KILLS = ("before", "after")
FULL = ("ENOSPC", "EDQUOT", "EROFS")
ERROR = ("EIO",)
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


@dataclass
class Server:
    """Runs tasks of a checkout, faulted.

    Attributes:
        every: whether every fault is tried at every operation.
        copies: whether copies of files count as unchanged (counting.py).
    """

    scratch: Path
    warm: warm.Server
    every: bool = False
    copies: bool = False

    def run(self, checkout: Checkout, *words: str, at: int = 0, fault: str = "none") -> int:
        """The exit code of a task; minus the signal that ended it."""
        told = {"at": at, "fault": fault, "operations": str(self.scratch / "operations"), "copies": self.copies}
        with (self.scratch / "log").open("wb") as log:
            return warm.Popen[bytes](
                [sys.executable, "-m", "invoke", *words],
                cwd=checkout.folder, env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                before="tests.faults.counting:install", told=told, server=self.warm,
            ).wait()  # fmt: skip

    @property
    def said(self) -> str:
        return (self.scratch / "log").read_text()

    @property
    def operations(self) -> list[str]:
        """What kind each durable operation of the last task was that came to its end."""
        names: list[str] = json.loads((self.scratch / "operations").read_text())
        return names

    def faults(self, operations: Sequence[str], names: Sequence[str]) -> Iterator[tuple[int, str]]:
        """Each operation to fault, counted from 1, with the fault."""
        for at, operation in enumerate(operations, 1):
            if self.every:
                chosen = names
            elif names == KILLS:
                chosen = KILLS if operation == "process" or at == len(operations) else ("before",)
            else:
                chosen = (names[at % len(names)],)
            for fault in chosen:
                yield at, fault


def operations(server: Server, golden: Checkout, folder: Path, *words: str) -> list[str]:
    """The durable operations of a task that succeeds."""
    checkout = copied(golden, folder)
    assert server.run(checkout, *words) == 0, server.said
    return server.operations


def copied(golden: Checkout, folder: Path) -> Checkout:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(golden.folder.parent, folder, symlinks=True)
    return Checkout(folder / "factory", folder / "recovery.key")


def whole(checkout: Checkout) -> None:
    """Every backup that can be seen is what its manifest says."""
    for folder in checkout.backups():
        assert check(folder, manifest.read(folder)) == [], folder


def clean(checkout: Checkout) -> None:
    """Nothing half done is left after the next command."""
    left = [path.name for path in (checkout.target / ".store").iterdir()]
    assert sorted(left) == ["backup.lock", "records"], left
    kept = {path.name for path in (checkout.folder / ".backup").glob("pre-restore-*")}
    own = [path.name for path in (checkout.folder / ".backup").glob("*") if path.name not in kept]
    own = [name for name in own if not (kept and (name == "aside.json" or name.startswith("restored-")))]
    assert own in ([], [".gitignore"])
