"""Check that a wheel works where nothing else is installed: `python tests/installed.py WHEEL [PYTHON ...]`.

`nox -s build` calls this with the Pythons it was given, or else its own.

The wheel is installed without extras into an environment of its own outside the checkout, and used as a stranger would.
Nothing is built for it: its dependencies have to be available as wheels, in the versions of requirements.lock.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

LOCK = ROOT / "requirements.lock"

TASKS = "from conche import namespace\nns = namespace(__file__)\n"

STACK = """\
name: guestbook
registry: localhost:5000
environments:
  dev: {compose: [compose.yaml], port: 18099}
"""

COMPOSE = """\
services:
  web:
    image: localhost:5000/guestbook:latest
    ports: ["127.0.0.1:${CONCHE_PORT}:8000"]
"""

WORKFLOW = """\
name: CI
on: push
permissions: {contents: read}
jobs:
  test:
    runs-on: ubuntu-latest
    timeout-minutes: 5
    steps: [{run: "true", timeout-minutes: 1}]
"""


class Place:
    """An environment with the wheel installed, and a stack beside it."""

    def __init__(self, folder: Path) -> None:
        self.python = folder / "venv" / "bin" / "python"
        self.stack = folder / "stack"
        self._home = folder / "home"

    def make(self, wheel: Path, python: str) -> None:
        """Install the wheel for a Python, and write the stack's files."""
        uv, made = str(Path(sys.executable).parent / "uv"), self.python.parents[1]
        subprocess.run([uv, "venv", "--quiet", "--python", python, made], check=True)
        there = ["--quiet", "--python", str(self.python)]
        locked = ["--only-binary", ":all:", "--constraint", str(LOCK)]
        subprocess.run([uv, "pip", "install", *there, *locked, str(wheel)], check=True, cwd=made)
        subprocess.run([uv, "pip", "check", *there], check=True, cwd=made)
        (self.stack / ".gitea" / "workflows").mkdir(parents=True)
        self._home.mkdir()
        files = {"tasks.py": TASKS, "stack.yaml": STACK, "compose.yaml": COMPOSE, ".gitea/workflows/ci.yml": WORKFLOW}
        for name, content in files.items():
            (self.stack / name).write_text(content, encoding="utf-8")

    def packages(self) -> dict[str, float]:
        """Return when each installed file was written, without Python's own caches."""
        files = self.python.parents[1].rglob("*")
        return {str(one): one.lstat().st_mtime for one in files if "__pycache__" not in one.parts and one.is_file()}

    def run(self, *words: str, expect: int = 0, path: str = "") -> str:
        """Return the standard output of `python -m` with these words; exit if its exit code is not the expected one."""
        kept = {name: os.environ[name] for name in ("PATH", "DOCKER_HOST", "TMPDIR") if name in os.environ}
        said = subprocess.run(
            [self.python, "-m", *words], cwd=self.stack, capture_output=True, text=True, check=False,
            env={**kept, "HOME": str(self._home), "LANG": "C.UTF-8", "PYTHONPATH": path},
        )  # fmt: skip
        if said.returncode != expect:
            sys.exit(f"{' '.join(words)} ended with {said.returncode}, not {expect}:\n{said.stdout}{said.stderr}")
        return said.stdout


def see(what: str, *, holds: bool) -> None:
    """Print what holds, or exit with what does not."""
    if not holds:
        sys.exit(f"installed: not so: {what}")
    sys.stdout.write(f"installed: {what}\n")


class Offline:
    """An environment that Python itself has made, into which pip installs from a folder alone."""

    def __init__(self, folder: Path) -> None:
        self._made, self._index = folder / "offline", folder / "index"
        self._python = self._made / "bin" / "python"

    def make(self, wheel: Path, python: str) -> None:
        """Fill the folder with what the wheel needs, and install from it with a proxy that nobody answers at."""
        subprocess.run([python, "-m", "venv", self._made], check=True)
        pinned = [line.split()[0] for line in LOCK.read_text(encoding="utf-8").splitlines() if "==" in line]
        constraints = self._made / "constraints.txt"
        constraints.write_text("".join(f"{one}\n" for one in pinned), encoding="utf-8")
        pip = [str(self._python), "-m", "pip", "--quiet", "--disable-pip-version-check"]
        only = ["--only-binary", ":all:", "--constraint", str(constraints)]
        subprocess.run([*pip, "download", *only, "--dest", self._index, str(wheel)], check=True, cwd=self._made)
        found = ["--no-index", "--find-links", str(self._index), "--proxy", "http://127.0.0.1:9", "--retries", "0"]
        subprocess.run([*pip, "install", *found, "conche"], check=True, cwd=self._made)

    def version(self, path: str = "") -> str:
        """Return what `conche --version` prints."""
        argv = [str(self._python), "-m", "conche", "--version"]
        return subprocess.run(
            argv, capture_output=True, text=True, check=True, cwd=self._made, env={"PYTHONPATH": path}
        ).stdout

    def second(self, version: str) -> str:
        """Return a folder with the same package as of another version."""
        [package] = self._made.glob("lib/*/site-packages/conche")
        other = self._made / "other"
        shutil.copytree(package, other / "conche")
        written = other / "conche" / "_version.py"
        text = written.read_text(encoding="utf-8")
        written.write_text(re.sub(r'version = "[^"]+"', f'version = "{version}"', text), encoding="utf-8")
        return str(other)


def examine_offline(place: Offline, version: str) -> None:
    """Use what was installed without a network, alone and with another version before it."""
    see("pip installs it from a folder without a network", holds=place.version() == f"conche {version}\n")
    theirs = place.version(place.second("99.9.9"))
    see("of two versions it is the one that runs", holds=theirs == "conche 99.9.9\n")


def examine(place: Place, version: str) -> None:
    """Use the installed package as a stranger would."""
    see("the documentation comes with it", holds=place.run("conche", "docs", "stack").startswith("# stack.yaml"))
    see("the version is the wheel's", holds=place.run("conche", "--version") == f"conche {version}\n")
    see("invoke --list has the tasks", holds="env.up" in place.run("invoke", "--list"))
    shown = json.loads(place.run("invoke", "env.config", "--json"))
    see("env.config shows the service", holds="web" in json.dumps(shown["value"]))
    plan = json.loads(place.run("invoke", "env.up", "--dry-run", "--json"))["plan"]
    see("env.up --dry-run plans a container", holds=any("web" in json.dumps(step) for step in plan))
    for written in ("stack.yaml", "tasks.py"):
        (place.stack / written).unlink()
    place.run("conche", "init")
    see("conche init writes what invoke needs", holds="env.up" in place.run("invoke", "--list"))
    refused = json.loads(place.run("invoke", "ci.validate", "--json", expect=9))["error"]
    see("ci.validate names the extra", holds="conche[ci]" in refused["next"] and refused["code"] == "tool-missing")
    theirs = place.run("conche", "--version", path=str(ROOT))
    see("with a checkout on Python's path it is the checkout's version", holds=theirs != f"conche {version}\n")


def main(words: Sequence[str]) -> None:
    """Install the given wheel, and use it."""
    wheel, *pythons = words
    for python in pythons or [sys.executable]:
        sys.stdout.write(f"installed: for {python}\n")
        with tempfile.TemporaryDirectory() as folder:
            place = Place(Path(folder))
            place.make(Path(wheel).resolve(), python)
            before = place.packages()
            examine(place, Path(wheel).name.split("-")[1])
            see("nothing was written where packages are, which may be read-only", holds=place.packages() == before)
            offline = Offline(Path(folder))
            offline.make(Path(wheel).resolve(), python)
            examine_offline(offline, Path(wheel).name.split("-")[1])


if __name__ == "__main__":
    main(sys.argv[1:])
