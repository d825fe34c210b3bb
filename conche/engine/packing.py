"""Packs and unpacks a volume by GNU tar, in a container: this machine's, or that of any image that has it.

The engine's own copying knows nothing of a user's attributes, ACLs, holes, and times below a second, and nothing of
what the volume's own folder is like.
"""

from __future__ import annotations

import contextlib
import fnmatch
import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from conche.engine import containers, gnutar, programs
from conche.engine.connection import OF_NO_PROJECT, Engine, EngineRefused, translated
from conche.engine.volumes import LABEL, MOUNTED, TRIES, UNUSABLE, images, mounted
from conche.errors import ConcheError
from conche.process import Completed, signals_deferred

__all__ = ["Helper", "excluding", "helping", "pack", "unpack"]

KEEPING = ("--xattrs", "--xattrs-include=*", "--numeric-owner", "--blocking-factor=2048")
PACK = (
    "tar",
    "--create",
    "--format=posix",
    "--pax-option=delete=atime,delete=ctime",
    "--sparse",
    "--sort=name",
    *KEEPING,
)
UNPACK = (
    "tar", "--extract", "--acls", *KEEPING, "--same-permissions", "--same-owner", "--absolute-names",
    "--delay-directory-restore", "--warning=no-timestamp",
)  # fmt: skip

CHANGED = 1
"""tar's exit code if a file has changed while it was read."""

RIGHTS = ("CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "SETFCAP")
"""What root may do in the container: only what tar needs to read and give back what others own."""

_known: dict[str, str] = {}
"""The image on an engine that was found to have GNU tar, by the engine's address."""


@dataclass(frozen=True)
class Helper:
    """A container with a volume in it, at `MOUNTED`.

    Attributes:
        packs: it runs, and has GNU tar; if not, there is only the engine's own copying.
    """

    engine: Engine
    id: str
    packs: bool


@contextlib.contextmanager
def helping(engine: Engine, volume: str, *, writable: bool = False) -> Iterator[Helper]:
    """Provide a container for a volume, for this block: a running one with GNU tar if any image has that."""
    for image in _candidates(engine, volume):
        found = ""
        try:
            with signals_deferred(), contextlib.suppress(*UNUSABLE):
                found = _made(engine, image, volume, writable=writable)
            if found and _packs(engine, found):
                _known[engine.address] = image
                yield Helper(engine, found, packs=True)
                return
        finally:
            if found:
                containers.remove(engine, found)
    with mounted(engine, volume, writable=writable) as left:
        yield Helper(engine, left, packs=False)


def _candidates(engine: Engine, volume: str) -> Iterator[str]:
    own = gnutar.provide(engine)
    if own is not None:
        yield own
    every = list(images(engine, volume))
    known = [_known[engine.address]] if _known.get(engine.address) in every else []
    yield from itertools.islice(dict.fromkeys([*known, *every]), TRIES)


def _made(engine: Engine, image: str, volume: str, *, writable: bool) -> str:
    with translated(engine.address):
        api = engine.client.api
        made = api.create_container(
            image,
            ["infinity"],
            entrypoint=["sleep"],
            user="0:0",
            labels={**OF_NO_PROJECT, LABEL: volume},
            healthcheck={"test": ["NONE"]},
            host_config=api.create_host_config(
                binds=[f"{volume}:{MOUNTED}{'' if writable else ':ro'}"],
                network_mode="none",
                cap_drop=["ALL"],
                cap_add=list(RIGHTS),
                security_opt=["no-new-privileges"],
                read_only=True,
            ),
        )
    return str(made["Id"])


def _packs(engine: Engine, container_id: str) -> bool:
    """Start a container, and return whether it has GNU tar, with all that is asked of it here."""
    try:
        containers.start(engine, container_id)
    except ConcheError:  # an image without `sleep`
        return False
    done = programs.run(engine, container_id, [*UNPACK, "--sort=name", "--version"], number=programs.new_number())
    return done.ok and "GNU tar" in done.stdout.raw and not done.stderr.raw.strip()


def pack(helper: Helper, exclude: Sequence[str], said: deque[bytes]) -> Iterator[bytes]:
    """Yield a tar stream of all that is in the volume, and of its own folder.

    Args:
        exclude: patterns of names, or of whole paths, that need not be read.
        said: is given what tar says of files that it could not read as they were.

    Raises:
        EngineRefused: something could not be read.
    """
    argv = [*PACK, f"--directory={MOUNTED}", *excluding(exclude), "."]
    yield from programs.output(
        helper.engine, helper.id, argv, number=programs.new_number(), accepted=(0, CHANGED), said=said
    )


def excluding(patterns: Sequence[str]) -> Iterator[str]:
    """Yield tar's options to leave out no more than what Python's fnmatch does, of names or of whole paths.

    A pattern that tar may read otherwise is for whoever reads the stream: its `?` may be half a letter, its sets have
    negations and classes of their own, and with `.` it would leave out everything.
    """
    for pattern in patterns:
        if set(pattern) & set("?[") or fnmatch.fnmatchcase(".", pattern):
            continue
        escaped = pattern.replace("\\", "\\\\")
        if "/" in pattern:
            yield from ("--wildcards", "--wildcards-match-slash", "--anchored", f"--exclude=./{escaped}")
        else:
            yield from ("--wildcards", "--no-wildcards-match-slash", "--no-anchored", f"--exclude={escaped}")


def unpack(helper: Helper, folder: str, chunks: Iterable[bytes]) -> tuple[str, ...]:
    """Unpack a tar stream into a folder of the container; return what tar says that could not be set.

    Raises:
        EngineRefused: something could not be written; what was written stays.
    """
    argv = [*UNPACK, f"--directory={folder}"]
    return _told(programs.run(helper.engine, helper.id, argv, number=programs.new_number(), stdin=chunks))


def _told(done: Completed) -> tuple[str, ...]:
    lines = done.last_lines(20)
    if done.ok:
        return lines
    if any("No space left on device" in line for line in lines):
        raise EngineRefused("disk-full", "The engine's disk is full.", evidence=lines, next_command="docker system df")
    raise EngineRefused("volume-not-unpacked", f"tar in the container exited with {done.exit_code}.", evidence=lines)
