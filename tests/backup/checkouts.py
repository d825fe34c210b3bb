"""Checkouts with a section `backup` for tests: real files, real age keys, and on demand a real container."""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from conche.vault import keys
from conche.vault.values import BACKUP_KEYS
from tests import warm
from tests.stacks import ROOT, SmallStack

STACK = """\
name: factory
registry: localhost:5000
secrets: {declared: {alpha: {required: false}, ping_url: {required: false}, restic_password: {required: false}}}
backup:
  recipients: [RECIPIENT]
  components:
    models: {driver: files, paths: [models]}
    config: {driver: files, paths: [compose.yaml, "*.conf"]}
    secrets: {driver: secrets}
    code: {driver: archive, paths: [src, scripts, .claude], optional: [.claude]}
    logs: {driver: logs, paths: ["logs/*.log"]}
environments: {dev: {compose: [compose.yaml]}}
"""

VOLUME = """\
    kept: {driver: volume, volume: NAME-kept, environment: dev}
    journal:
      driver: command
      environment: dev
      service: web
      file: journal.txt
      dump: [cat, /kept/journal]
      restore: [sh, -c, "cat > /kept/journal.new && mv /kept/journal.new /kept/journal"]
      check: [cat, /kept/journal]
"""


@dataclass(frozen=True)
class Checkout:
    """A checkout whose backups go to `factory-backups` beside it.

    Attributes:
        recovery: file with the recovery key.
    """

    folder: Path
    recovery: Path

    @classmethod
    def create(cls, parent: Path) -> Checkout:
        """A copy of one that was made once: of the files, the keys and the encrypted file alike."""
        template = _template()
        shutil.copytree(template.folder, parent / "factory", symlinks=True)
        shutil.copy2(template.recovery, parent / "recovery.key")
        return cls(parent / "factory", parent / "recovery.key")

    @classmethod
    def make(cls, parent: Path) -> Checkout:
        """Write its files, and have `secrets.init` make its key; like older checkouts it has none for its backups."""
        folder = parent / "factory"
        folder.mkdir(parents=True)
        made = cls(folder, parent / "recovery.key")
        identity, recipient = keys.generate()
        made.recovery.write_text(identity.reveal() + "\n")
        made.write("tasks.py", "from conche import namespace\nns = namespace(__file__)\n")
        made.write("stack.yaml", STACK.replace("RECIPIENT", recipient))
        made.write("compose.yaml", "services: {web: {image: x}}\n")
        made.write("nginx.conf", "server {}\n")
        made.write("src/app/main.py", "print('one')\n")
        made.write("src/big.bin", "0123456789abcdef" * 200_000)
        made.write("src/.env", "TOKEN=canary\n")
        made.write("scripts/run.sh", "#!/bin/sh\n")
        (folder / "scripts/run.sh").chmod(0o755)
        made.write("models/prophet_1.pkl", "model one")
        made.write("models/model_registry.json", "{}")
        (folder / "models/latest").mkdir()
        (folder / "models/latest/prophet.pkl").symlink_to("../prophet_1.pkl")
        made.write("logs/app.log", "a line\n")
        for words in (("secrets.init",), ("secrets.unset", BACKUP_KEYS, "--yes")):
            done = made.invoke(*words)
            assert done.returncode == 0, done.stderr
        return made

    @property
    def target(self) -> Path:
        return self.folder.parent / "factory-backups"

    def write(self, name: str, content: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)

    def replace(self, name: str, old: str, new: str) -> None:
        before = (self.folder / name).read_text()
        assert old in before
        self.write(name, before.replace(old, new))

    def environment(self, **extra: str) -> dict[str, str]:
        path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
        return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), **extra}

    def invoke(self, *words: str, stdin: str = "", **extra: str) -> subprocess.CompletedProcess[str]:
        """Call a task as a user does; no terminal."""
        return warm.run(
            [sys.executable, "-m", "invoke", *words],
            cwd=self.folder,
            env=self.environment(**extra),
            input=stdin,
            capture_output=True,
            timeout=800,
        )

    def json(self, *words: str, **extra: str) -> Any:
        """The value of a task's JSON document."""
        return json.loads(self.invoke(*words, "--json", **extra).stdout)["value"]

    def create_backup(self, kind: str = "daily") -> Path:
        """Make a backup, and see that this worked; its folder."""
        done = self.invoke("backup.create", kind, "--json")
        assert done.returncode == 0, done.stderr
        return Path(json.loads(done.stdout)["value"]["folder"])

    def backups(self) -> list[Path]:
        return sorted(path for kind in ("daily", "weekly", "monthly") for path in (self.target / kind).glob("*"))


@cache
def _template() -> Checkout:
    folder = tempfile.TemporaryDirectory(prefix="conche-checkout-")
    atexit.register(folder.cleanup)
    return Checkout.make(Path(folder.name))


def tree(folder: Path, *, without: tuple[str, ...] = ()) -> dict[str, str]:
    """Every file, folder and link below a folder, with mode and content, to compare; locks tell who has held them."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if any(name == one or name.startswith(f"{one}/") for one in without) or path.match(".sops/*.lock"):
            continue
        mode = stat.S_IMODE(path.lstat().st_mode)
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        elif path.is_file():
            found[name] = f"{mode:o} {hashlib.sha256(path.read_bytes()).hexdigest()}"
        else:
            found[name] = f"{mode:o} folder"
    return found


def with_backup(stack: SmallStack) -> None:
    """Give a small stack on the engine a section `backup`, with its volume and a command in its container."""
    section = "backup:\n  components:\n" + VOLUME.replace("NAME", stack.name)
    stack.write("stack.yaml", (stack.folder / "stack.yaml").read_text() + section)
