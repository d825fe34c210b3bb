"""What a program that the engine runs in a container says, from its first byte on.

The Docker SDK reads it past the buffer in which the engine's answer was read. What arrives together with that answer,
as on a busy machine, would be lost: the beginning of a dump, or of the header that says where the next part begins.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from conche.engine.connection import Engine

__all__ = ["demultiplexed", "frames"]

BLOCK = 1 << 20
STDERR = 2

HEADER = struct.Struct(">BxxxL")
"""The stream that a frame is of, and its length in bytes. Source: ContainerAttach in the Docker Engine API."""

CUT_OFF = "The output of a program in a container is cut off."

Frame = tuple[bytes | None, bytes | None]
"""Bytes of stdout, or of stderr."""


def frames(engine: Engine, identity: str, silence: float | None = None) -> Iterator[Frame]:
    """Start an exec, and yield what it says as it says it.

    Args:
        silence: seconds for which it may say nothing, and over ssh those until it must have ended; default: as long as
            it likes.

    Raises:
        ConnectionError: it is cut off, which must not be taken for the end of a dump, or has been silent for too long.
    """
    api: Any = engine.client.api
    response = api.exec_start(identity, socket=True)._response
    try:
        reader = response.raw._fp.fp
        if engine.address.startswith("ssh://"):
            with _closed_after(silence, reader.channel):
                yield from demultiplexed(reader.channel.taken_over())
            # A connection that breaks between two frames looks like the end of the program, but for ssh itself.
            if not reader.channel.ended_well():
                raise ConnectionError(CUT_OFF)
        else:
            reader.raw._sock.settimeout(silence)
            yield from demultiplexed(reader)
    except TimeoutError as error:
        raise ConnectionError(f"A program in a container has said nothing for {silence:g} s.") from error
    finally:
        response.close()
    if api.exec_inspect(identity)["Running"]:
        raise ConnectionError(CUT_OFF)


@contextmanager
def _closed_after(seconds: float | None, channel: Any) -> Iterator[None]:
    """Close a channel that is read for longer; its reader then finds it cut off."""
    if seconds is None:
        yield
        return
    timer = threading.Timer(seconds, channel.close)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def demultiplexed(reader: IO[bytes]) -> Iterator[Frame]:
    """Yield what the frames of a stream hold.

    Raises:
        ConnectionError: it is cut off within a frame.
    """
    while head := reader.read(HEADER.size):
        if len(head) < HEADER.size:
            raise ConnectionError(CUT_OFF)
        stream, left = HEADER.unpack(head)
        while left:
            block = reader.read(min(left, BLOCK))
            if not block:
                raise ConnectionError(CUT_OFF)
            left -= len(block)
            yield (None, block) if stream == STDERR else (block, None)
