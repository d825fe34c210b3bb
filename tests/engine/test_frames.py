"""The output of an exec is read frame by frame, and one that is cut off is no output."""

from __future__ import annotations

import io
import struct

import pytest

from conche.engine.connection import translated
from conche.engine.frames import demultiplexed
from conche.errors import Unreachable


def frame(stream: int, content: bytes) -> bytes:
    return struct.pack(">BxxxL", stream, len(content)) + content


WHOLE = frame(1, b"data") + frame(2, b"a warning") + frame(1, b"") + frame(1, b"more")


def test_each_frame_is_of_stdout_or_of_stderr() -> None:
    assert list(demultiplexed(io.BytesIO(WHOLE))) == [(b"data", None), (None, b"a warning"), (b"more", None)]


@pytest.mark.parametrize("missing", [1, 4, 7], ids=["within a frame", "before its content", "within its header"])
def test_what_is_cut_off_is_an_error_and_not_the_end(missing: int) -> None:
    with pytest.raises(Unreachable, match="No Docker engine"), translated("tcp://away:2375"):
        list(demultiplexed(io.BytesIO(WHOLE[:-missing])))
