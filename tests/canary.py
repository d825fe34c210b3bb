"""Watch a task's call: search what it starts, what it writes, and what it leaves for a canary.

The watch is an audit hook inside the task's process (PEP 578), so it sees every process at its start, however
short-lived, and every file at the moment it gets its name or is removed.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
import stat
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conche.secret import Secret
from conche.vault.leaks import Needles
from tests import warm

HOOK = """\
import os, sys, threading
busy = threading.local()
record = int(os.environ["WATCH_RECORD"])
os.set_inheritable(record, False)
canary = os.environ["WATCH_CANARY"].encode()

def note(kind, what):
    import json
    os.write(record, (json.dumps([kind, what]) + "\\n").encode())

def look(path):
    # What counts the lines that ran keeps the command line, and here the canary is given in one on purpose.
    if os.path.basename(os.fsdecode(path)).startswith(".coverage."):
        return
    with open(path, "rb") as stream:
        loose = os.fstat(stream.fileno()).st_mode & 0o077
        if loose and canary in stream.read():
            note("loose", os.fsdecode(path))

def hook(event, arguments):
    if getattr(busy, "now", False) or event not in ("subprocess.Popen", "os.exec", "os.rename", "shutil.rmtree"):
        return
    busy.now = True
    try:
        if event in ("subprocess.Popen", "os.exec"):
            note("argv", [os.fsdecode(word) for word in (arguments[0] or "", *arguments[1])])
        elif event == "os.rename":
            look(arguments[0])
        else:
            for folder, _, names in os.walk(arguments[0]):
                for name in names:
                    look(os.path.join(folder, name))
    finally:
        busy.now = False

sys.addaudithook(hook)
del os.environ["WATCH_CANARY"], os.environ["WATCH_RECORD"]
"""
"""Python runs this at its start as `sitecustomize`, and a forked child of the warm process before its task."""


def begin(variables: dict[str, str]) -> None:
    """Watch this process from now on."""
    os.environ.update(variables)
    sys.dont_write_bytecode = True
    exec(HOOK, {})


CORE = slice(0, len("canary-") + 32)
"""The part of the fixture `canary` that no way of quoting changes."""


@dataclass(frozen=True)
class Watch:
    """Calls of tasks, each with folders of its own for whatever it may leave.

    Attributes:
        canary: the value that nothing may show.
        folder: for the hook, and the runtime, temporary and state folders of the called tasks.
        private: names of files that may hold the canary, when nobody else can read them.
    """

    canary: str
    folder: Path
    private: frozenset[str] = frozenset()
    leaks: list[str] = field(default_factory=list)
    argvs: list[list[str]] = field(default_factory=list)

    @classmethod
    def create(cls, canary: str, folder: Path, private: Sequence[str]) -> Watch:
        for name in ("hook", "runtime", "temporary", "state"):
            (folder / name).mkdir(parents=True, mode=0o700)
        (folder / "hook/sitecustomize.py").write_text(HOOK)
        return cls(canary, folder, frozenset(private))

    def environment(self, given: Mapping[str, str]) -> dict[str, str]:
        """Return the environment of a call: the given one, with folders of this watch only."""
        folders = {"XDG_RUNTIME_DIR": "runtime", "XDG_STATE_HOME": "state", "TMPDIR": "temporary"}
        return {**given, **{name: str(self.folder / folder) for name, folder in folders.items()}}

    def hooked(self, argv: Sequence[str], environment: Mapping[str, str], record: int) -> dict[str, Any]:
        """Return the options that watch a call: a task from its beginning, others from the start of their Python."""
        variables = {"WATCH_RECORD": str(record), "WATCH_CANARY": self.canary[CORE]}
        if warm.words_of(argv) is not None and not warm.shared.idle:
            return {"env": environment, "before": "tests.canary:begin", "told": variables}
        path = os.pathsep.join((str(self.folder / "hook"), environment.get("PYTHONPATH", "")))
        at_start = {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
        return {"env": {**environment, **at_start, **variables}}

    def call(
        self, argv: Sequence[str], cwd: Path, environment: Mapping[str, str], stdin: str = "", *, shows: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """Run a task to its end and look at everything it did.

        Args:
            shows: the task is meant to print the value.
        """
        # A pipe instead of a file, since the disk may be full.
        reading, record = os.pipe()
        fcntl.fcntl(record, fcntl.F_SETPIPE_SZ, 1 << 20)
        done = warm.run(
            argv,
            cwd=cwd,
            pass_fds=[record],
            input=stdin,
            capture_output=True,
            timeout=800,
            umask=0,  # nothing becomes private by luck
            **self.hooked(argv, self.environment(environment), record),
        )
        task = " ".join(argv[3:])
        if not shows and self.holds(done.stdout + done.stderr):
            self.leaks.append(f"{task}: output")
        os.close(record)
        with os.fdopen(reading) as recorded:
            events = [json.loads(line) for line in recorded]
        for kind, what in events:
            if kind == "argv":
                self.argvs.append(what)
            if kind != "argv" or self.holds(" ".join(what)):
                self.leaks.append(f"{task}: {kind} {what}")
        for name in ("runtime", "temporary"):
            left = [path for path in (self.folder / name).rglob("*") if not path.is_dir()]
            self.leaks.extend(f"{task}: left {path}" for path in left if path.suffix != ".lock")
        self.leaks.extend(f"{task}: {path}" for path in self.exposing(cwd, self.folder / "state"))
        return done

    def holds(self, text: str | bytes) -> bool:
        """Return whether text has the canary, or any private key, in any form in which tools write it."""
        content = text.encode() if isinstance(text, str) else text
        needles = Needles({"canary": Secret(self.canary), "core": Secret(self.canary[CORE])})
        return any(True for _ in needles.hits(io.BytesIO(content)))

    def exposing(self, *folders: Path) -> list[Path]:
        """Return the files with the canary or a private key that should not have it or that others can read."""
        files = [path for folder in folders for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
        holding = [path for path in files if self.holds(path.read_bytes())]
        return [p for p in holding if p.name not in self.private or stat.S_IMODE(p.stat().st_mode) & 0o077]
