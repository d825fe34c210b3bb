"""What the roads share: images that are there, a fresh clone, and steps that are timed and printed."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import yaml

__all__ = ["Failed", "NotHere", "Road", "Walk", "in_use", "lacking", "say"]

ROOT = Path(__file__).resolve().parents[2]

LONGEST = 3600.0
"""Seconds that one command may take: a first pipeline on two cores builds everything."""

LINES = 60
"""How much of a failed command is shown."""


class NotHere(Exception):
    """This machine lacks what a road, or the part of it that is named, needs."""


class Failed(Exception):
    """The road does not lead where the documentation says."""


@dataclass(frozen=True)
class Road:
    """The road of one server.

    Attributes:
        images: what the road cannot begin without.
        walk: takes every step in order; raises `Failed`.
    """

    name: str
    images: Callable[[], Sequence[str]]
    walk: Callable[[Walk], None]


@dataclass
class Walk:
    """One way along a road, in a fresh clone.

    Attributes:
        folder: the clone.
        taken: the steps so far, with their seconds.
        left_out: parts that this machine cannot do, each with what it lacks.
        keep: a road that fails leaves what it has brought up, to be looked at.
    """

    folder: Path
    keep: bool = False
    taken: list[tuple[str, float]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time and print what is done inside."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.taken.append((name, time.perf_counter() - begun))
            say(f"{self.taken[-1][1]:8.1f} s  {name}")

    def run(
        self, *argv: str, fails: bool | None = False, variables: Mapping[str, str] | None = None, given: str = ""
    ) -> str:
        """Run a command in the clone; return its standard output.

        Args:
            fails: whether it has to fail instead of working; None lets it do either.
            given: its standard input.
        """
        done = subprocess.run(
            argv, cwd=self.folder, env={**_clean(), **(variables or {})}, input=given,
            text=True, capture_output=True, timeout=LONGEST, check=False,
        )  # fmt: skip
        if fails is not None and (done.returncode != 0) != fails:
            shown = "\n".join((done.stdout + done.stderr).splitlines()[-LINES:])
            raise Failed(f"{' '.join(argv)} ended with {done.returncode}\n{shown}")
        return done.stdout

    def invoke(
        self, *words: str, fails: bool | None = False, variables: Mapping[str, str] | None = None, given: str = ""
    ) -> str:
        """A task, by the clone's own environment."""
        python = str(self.folder / ".venv/bin/python")
        return self.run(python, "-m", "invoke", *words, fails=fails, variables=variables, given=given)

    def timed(self, *words: str, fails: bool = False) -> str:
        """A task that is a step of its own, named as it is typed."""
        with self.step("invoke " + " ".join(words)):
            return self.invoke(*words, fails=fails)

    @contextlib.contextmanager
    def part(self, name: str, images: Sequence[str]) -> Iterator[bool]:
        """Whether a part of the road can be walked; what it lacks is told at the end."""
        lacks = lacking(images)
        if lacks:
            self.left_out.append(f"{name}: no image {', '.join(lacks)}")
        yield not lacks


def in_use(ports: Sequence[int], name: str = "") -> list[str]:
    """Volumes with the names of the documentation, and ports of it, that something here already has.

    Args:
        name: of another copy of the stack.
    """
    name = name or yaml.safe_load((ROOT / "stack.yaml").read_text(encoding="utf-8"))["name"]
    argv = ["docker", "volume", "ls", "--quiet", "--filter", f"name=^{name}_"]
    volumes = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()
    return [f"volume {name}" for name in volumes] + [f"port {port}" for port in ports if not _free(port)]


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def lacking(images: Sequence[str]) -> list[str]:
    """The images that the engine neither has nor can pull."""
    return [image for image in images if not _quietly("image", "inspect", image) and not _quietly("pull", image)]


def _quietly(*words: str) -> bool:
    return subprocess.run(["docker", *words], capture_output=True, check=False, timeout=1800).returncode == 0


def say(text: str, stream: TextIO = sys.stdout) -> None:
    """One line, at once: a road is long."""
    stream.write(f"{text}\n")
    stream.flush()


def _clean() -> dict[str, str]:
    """Nobody's token or settings, and no environment of Python's that is already active."""
    own = {"VIRTUAL_ENV", "CONCHE_VENV", "CI"}
    starts = ("FORGEJO_", "GITEA_", "GITHUB_", "SOPS_", "CONCHE_", "COMPOSE_")
    return {name: value for name, value in os.environ.items() if name not in own and not name.startswith(starts)}


def walk(road: Road, *, keep: bool = False) -> Walk:
    """Walk one road in a clone of what is committed here.

    Raises:
        NotHere: an image of it is neither here nor to be had.
        Failed: a step did not do what the documentation says.
    """
    lacks = lacking(road.images())
    if lacks:
        raise NotHere(f"no image {', '.join(lacks)}")
    folder = Path(tempfile.mkdtemp(prefix="conche-real-"))
    taken, variables = Walk(folder / "checkout", keep), dict(os.environ)
    try:
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(taken.folder)], check=True)
        road.walk(taken)
    except BaseException:
        if not keep:
            shutil.rmtree(folder)
        raise
    finally:
        # A road may give the commands that it types variables of its own.
        os.environ.clear()
        os.environ.update(variables)
    shutil.rmtree(folder)
    return taken


def main(roads: dict[str, Road], asked: Sequence[str]) -> int:
    """Walk the roads that are asked for, or all: 0, 1 where one failed, 9 where this machine lacks something.

    With `--keep` among them, one that fails leaves its clone and what it has brought up, to be looked at.
    """
    keep = "--keep" in asked
    asked = [name for name in asked if name != "--keep"]
    unknown = [name for name in asked if name not in roads]
    if unknown:
        say(f"real: no road {', '.join(unknown)}; there are {', '.join(roads)}", sys.stderr)
        return 2
    failed, lacks = False, []
    for name in asked or roads:
        say(f"real: {name}")
        try:
            taken = walk(roads[name], keep=keep)
        except NotHere as error:
            lacks.append(f"{name}: {error}")
            continue
        except Failed as error:
            say(f"real: {name} failed: {error}", sys.stderr)
            failed = True
            continue
        say(f"{sum(seconds for _, seconds in taken.taken):8.1f} s  in all")
        lacks += [f"{name}, {part}" for part in taken.left_out]
    for one in lacks:
        say(f"real: left out: {one}", sys.stderr)
    return 1 if failed else 9 if lacks else 0
