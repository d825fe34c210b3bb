"""Check that a wheel works where nothing else is installed: `python -m tests.installed WHEEL [PYTHON ...]`.

`nox -s build` calls this with the Pythons it was given, or else its own.

The wheel is installed without extras into an environment of its own outside the checkout, which is read-only from then
on, and used there as a stranger would. Nothing is built for it: its dependencies have to be available as wheels, in the
versions of requirements.lock. One service is really brought up, so an engine has to be there.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from conche.engine.connection import Engine
from conche.stack import load
from conche.supply.base import provide
from tests.stacks import ROOT, free_port

LOCK = ROOT / "requirements.lock"

IMAGE = "python:3.11-slim-bookworm"

TASKS = "from conche import namespace\nns = namespace(__file__)\n"

STACK = """\
name: {name}
environments:
  dev: {{compose: [compose.yaml], port: {port}}}
"""

COMPOSE = """\
services:
  web:
    image: {image}
    init: true
    command: ["python3", "-m", "http.server", "8000"]
    ports: ["127.0.0.1:${{CONCHE_PORT:-{port}}}:8000"]
    healthcheck:
      test: ["CMD", "python3", "-c", "import socket; socket.create_connection(('127.0.0.1', 8000))"]
      interval: 2s
      retries: 10
"""

BOUND = ("setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override")
"""Runs a program for which modes of files count even as root, in a container of a runner too."""

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
    """A read-only environment with the wheel installed, and a stack beside it."""

    def __init__(self, folder: Path) -> None:
        self._made, self._other = folder / "venv", folder / "other"
        self._python = self._made / "bin" / "python"
        self.stack, self.name, self.port = folder / "stack", f"conche-installed-{os.getpid()}", free_port()
        self._home = folder / "home"

    def make(self, wheel: Path, python: str) -> None:
        """Install the wheel for a Python, and write the stack's files."""
        uv = str(Path(sys.executable).parent / "uv")
        subprocess.run([uv, "venv", "--quiet", "--python", python, self._made], check=True)
        there = ["--quiet", "--python", str(self._python)]
        locked = ["--only-binary", ":all:", "--constraint", str(LOCK)]
        subprocess.run([uv, "pip", "install", *there, *locked, str(wheel)], check=True, cwd=self._made)
        subprocess.run([uv, "pip", "check", *there], check=True, cwd=self._made)
        (self.stack / ".gitea" / "workflows").mkdir(parents=True)
        self._home.mkdir()
        named = {"name": self.name, "port": self.port, "image": IMAGE}
        files = {
            "tasks.py": TASKS,
            "stack.yaml": STACK.format(**named),
            "compose.yaml": COMPOSE.format(**named),
            ".gitea/workflows/ci.yml": WORKFLOW,
        }
        for name, content in files.items():
            (self.stack / name).write_text(content, encoding="utf-8")

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """Take away the right to write where packages are, for this block."""
        every = [one for one in self._made.rglob("*") if not one.is_symlink()]
        modes = {one: one.stat().st_mode for one in [self._made, *every]}
        for one, mode in modes.items():
            one.chmod(mode & ~0o222)
        try:
            yield
        finally:
            for one, mode in modes.items():
                one.chmod(mode)

    def call(self, *words: str, path: str = "") -> subprocess.CompletedProcess[str]:
        """Run the environment's Python."""
        kept = {name: os.environ[name] for name in ("PATH", "DOCKER_HOST", "TMPDIR") if name in os.environ}
        return subprocess.run(
            [*(BOUND if os.geteuid() == 0 else ()), str(self._python), *words],
            cwd=self.stack, capture_output=True, text=True, check=False,
            env={**kept, "HOME": str(self._home), "LANG": "C.UTF-8", "PYTHONPATH": path},
        )  # fmt: skip

    def run(self, *words: str, expect: int = 0, path: str = "") -> str:
        """Return the standard output of `python -m` with these words; exit if its exit code is not the expected one."""
        said = self.call("-m", *words, path=path)
        if said.returncode != expect:
            sys.exit(f"{' '.join(words)} ended with {said.returncode}, not {expect}:\n{said.stdout}{said.stderr}")
        return said.stdout

    def doctor(self, path: str) -> str:
        """Return what doctor says of Conche itself, whatever else this machine lacks."""
        findings = json.loads(self.call("-m", "invoke", "doctor", "--json", path=path).stdout)["value"]
        return str(next(one for one in findings if one["name"] == "conche")["found"])

    def second(self, version: str) -> str:
        """Return a folder with the same package as of another version."""
        [package] = self._made.glob("lib/*/site-packages/conche")
        shutil.copytree(package, self._other / "conche")
        written = self._other / "conche" / "_version.py"
        written.parent.chmod(0o755)
        written.chmod(0o644)
        text = written.read_text(encoding="utf-8")
        written.write_text(re.sub(r'version = "[^"]+"', f'version = "{version}"', text), encoding="utf-8")
        return str(self._other)


def see(what: str, *, holds: bool) -> None:
    """Print what holds, or exit with what does not."""
    if not holds:
        sys.exit(f"installed: not so: {what}")
    sys.stdout.write(f"installed: {what}\n")


class Offline:
    """An environment that Python itself has made, into which pip installs without a network."""

    def __init__(self, folder: Path) -> None:
        self._made, self._wheels, self._index = folder / "offline", folder / "wheels", folder / "index"
        self._python = self._made / "bin" / "python"

    def make(self, wheel: Path, python: str) -> None:
        """Make the environment, a folder with all that the wheel needs, and an index of that folder."""
        subprocess.run([python, "-m", "venv", self._made], check=True)
        pinned = [line.split()[0] for line in LOCK.read_text(encoding="utf-8").splitlines() if "==" in line]
        constraints = self._made / "constraints.txt"
        constraints.write_text("".join(f"{one}\n" for one in pinned), encoding="utf-8")
        only = ["--only-binary", ":all:", "--constraint", str(constraints)]
        argv = [str(self._python), "-m", "pip", "--quiet", "download", *only, "--dest", str(self._wheels), str(wheel)]
        subprocess.run(argv, check=True, cwd=self._made)
        for one in self._wheels.iterdir():
            project = self._index / re.sub(r"[-_.]+", "-", one.name.split("-")[0]).lower()
            project.mkdir(parents=True, exist_ok=True)
            digest = hashlib.sha256(one.read_bytes()).hexdigest()
            link = f'<a href="{one.as_uri()}#sha256={digest}">{one.name}</a>'
            (project / "index.html").write_text(f"<!DOCTYPE html><html><body>{link}</body></html>", encoding="utf-8")

    def version(self, *source: str) -> str:
        """Install from a source, with a proxy that nobody answers at; return what `conche --version` prints.

        It is removed again.
        """
        # pip's own settings and variables may name further sources.
        pip = [str(self._python), "-m", "pip", "--isolated", "--quiet", "--disable-pip-version-check"]
        alone = ["--no-cache-dir", "--proxy", "http://127.0.0.1:9", "--retries", "0"]
        subprocess.run([*pip, "install", *alone, *source, "conche"], check=True, cwd=self._made)
        argv = [str(self._python), "-m", "conche", "--version"]
        said = subprocess.run(argv, capture_output=True, text=True, check=True, cwd=self._made).stdout
        frozen = [str(self._python), "-m", "pip", "--disable-pip-version-check", "freeze"]
        there = subprocess.run(frozen, capture_output=True, text=True, check=True, cwd=self._made).stdout
        names = [re.split(r"==| @ ", line)[0] for line in there.splitlines()]
        subprocess.run([*pip, "uninstall", "--yes", *names], check=True, cwd=self._made)
        return said

    @property
    def sources(self) -> dict[str, tuple[str, ...]]:
        """From where pip can have it."""
        return {
            "a folder": ("--no-index", "--find-links", str(self._wheels)),
            "a local index": ("--index-url", self._index.as_uri()),
        }


def examine_offline(place: Offline, version: str) -> None:
    """Install without a network."""
    for source, words in place.sources.items():
        see(f"pip installs it from {source} without a network", holds=place.version(*words) == f"conche {version}\n")


def examine(place: Place, version: str) -> None:
    """Use the installed package as a stranger would."""
    see("the documentation comes with it", holds=place.run("conche", "docs", "stack").startswith("# stack.yaml"))
    see("the version is the wheel's", holds=place.run("conche", "--version") == f"conche {version}\n")
    write = place.call("-c", "import conche, pathlib; (pathlib.Path(conche.__file__).parent / 'new').touch()")
    see("nobody can write where packages are", holds=write.returncode != 0 and "Error" in write.stderr)
    for written in ("stack.yaml", "tasks.py"):
        (place.stack / written).rename(place.stack / f"{written}.ours")
    place.run("conche", "init")
    see("conche init writes what invoke needs", holds="env.up" in place.run("invoke", "--list"))
    for written in ("stack.yaml", "tasks.py"):
        (place.stack / f"{written}.ours").replace(place.stack / written)
    see("invoke --list has the tasks", holds="env.up" in place.run("invoke", "--list"))
    shown = json.loads(place.run("invoke", "env.config", "--json"))
    see("env.config shows the service", holds="web" in json.dumps(shown["value"]))
    examine_running(place)
    refused = json.loads(place.run("invoke", "ci.validate", "--json", expect=9))["error"]
    see("ci.validate names the extra", holds="conche[ci]" in refused["next"] and refused["code"] == "tool-missing")


def examine_running(place: Place) -> None:
    """Bring the stack up, and take it down again."""
    provide(Engine(), load(ROOT).bases, IMAGE, lambda line: None)

    def planned() -> Any:
        return json.loads(place.run("invoke", "env.up", "--dry-run", "--json"))["plan"]

    see("env.up --dry-run plans a container", holds=any("web" in json.dumps(step) for step in planned()))
    try:
        place.run("invoke", "env.up")
        with urllib.request.urlopen(f"http://127.0.0.1:{place.port}/", timeout=30) as answer:
            see("env.up brings up a service that answers", holds=answer.status == 200)
        see("what works is left alone", holds=planned() == [])
    finally:
        place.run("invoke", "env.down", "--volumes", "--yes")


def examine_beside_another(place: Place, version: str) -> None:
    """Use the installed package where a checkout, or another version, is on Python's path before it."""
    theirs = place.run("conche", "--version", path=str(ROOT))
    see("with a checkout on Python's path it is the checkout's version", holds=theirs != f"conche {version}\n")
    see("doctor names the one that is not used", holds=f"not the {version} that" in place.doctor(str(ROOT)))
    other = place.second("99.9.9")
    theirs = place.run("conche", "--version", path=other)
    see("of two versions it is the first one that runs", holds=theirs == "conche 99.9.9\n")
    said = place.doctor(other)
    see("doctor names both", holds=said.startswith("99.9.9, ") and f"not the {version} that" in said)


def main(words: Sequence[str]) -> None:
    """Install the given wheel, and use it."""
    wheel, *pythons = words
    for python in pythons or [sys.executable]:
        sys.stdout.write(f"installed: for {python}\n")
        with tempfile.TemporaryDirectory() as folder:
            place, version = Place(Path(folder)), Path(wheel).name.split("-")[1]
            place.make(Path(wheel).resolve(), python)
            with place.read_only():
                examine(place, version)
                examine_beside_another(place, version)
            offline = Offline(Path(folder))
            offline.make(Path(wheel).resolve(), python)
            examine_offline(offline, version)


if __name__ == "__main__":
    main(sys.argv[1:])
