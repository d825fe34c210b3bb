"""Reads folders of containers, and what is in volumes, through their engine."""

from __future__ import annotations

import contextlib
import io
from collections import deque
from collections.abc import Iterator

from conche.backup.inflate import BLOCK, Forward, Refuses
from conche.backup.members import Members
from conche.backup.reading import Reading
from conche.engine import volumes
from conche.engine.connection import Engine
from conche.engine.packing import Helper, pack
from conche.errors import Unreachable

__all__ = ["copied", "packed"]

LESS = (
    "was read without attributes, ACLs, holes and fractions of a second, since neither this machine nor an image on the"
    " engine has GNU tar; any image of Debian or Fedora has it"
)
IGNORED = ": socket ignored"


@contextlib.contextmanager
def copied(engine: Engine, container_id: str, path: str) -> Iterator[Members]:
    """Open a file or folder of a container, running or not, as the engine itself copies it.

    Raises:
        NotFound: there is no such path.
        Unreachable: the engine has sent less than all of it.
    """
    with volumes.opened(engine, container_id, path) as stream, _whole(path):
        members = Members(Forward(stream), lenient=True)
        yield members
        if members.cut:
            raise Refuses("it is cut off")


@contextlib.contextmanager
def packed(helper: Helper, volume: str, reading: Reading) -> Iterator[Members]:
    """Open a volume as GNU tar packs it, or, without that, as the engine itself copies it.

    Raises:
        Unreachable: there is less than all of it.
        EngineRefused: something in it cannot be read.
    """
    if not helper.packs:
        # Most volumes have none of it, and a backup must not be DEGRADED for what may not be there.
        reading.leave_out(volume, LESS)
        with copied(helper.engine, helper.id, volumes.MOUNTED) as members:
            yield members
        return
    said = deque[bytes](maxlen=1000)
    chunks = pack(helper, reading.exclude, said)
    with _whole(volume):
        members = Members(Forward(io.BufferedReader(volumes.Stream(chunks), BLOCK)), lenient=True)
        yield members
        for _ in chunks:  # only at its end is it known how tar has ended
            pass
        if members.cut:
            raise Refuses("it is cut off")
    for line in b"".join(said).decode(errors="backslashreplace").splitlines():
        words = line.removeprefix("tar: ").removeprefix("./")
        if words.endswith(IGNORED):
            reading.leave_out(words.removesuffix(IGNORED), "is a socket")
        else:
            reading.leave_out(volume, f"was not read as it is: {words}", harmful=True)


@contextlib.contextmanager
def _whole(path: str) -> Iterator[None]:
    """Turn what is wrong with a stream into the error that says so."""
    try:
        yield
    except Refuses as error:
        raise Unreachable(
            "engine-stream-broken", f"The engine's copy of {path} was cut short.", evidence=[str(error)]
        ) from error
