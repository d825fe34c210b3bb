"""Where sparse files have content, and where they have holes."""

from __future__ import annotations

import errno
import os
from array import array
from collections.abc import Iterator, Sequence
from io import FileIO
from typing import overload

__all__ = ["MOST_PARTS", "Parts", "parts_of"]

MOST_PARTS = 1 << 20
"""How many parts a sparse file may have, between which there are holes: at least 8 GiB of a file, in 16 MiB of memory.

GNU tar writes as many as there are, but whoever reads an archive has to know them all before its content comes.
"""


class Parts(Sequence[tuple[int, int]]):
    """The parts of a file that are no holes, as places and lengths in bytes; each takes sixteen of memory."""

    def __init__(self) -> None:
        self._numbers = array("Q")

    def add(self, place: int, length: int) -> None:
        """Add a part, behind the others."""
        self._numbers.append(place)
        self._numbers.append(length)

    def __len__(self) -> int:
        return len(self._numbers) // 2

    def __iter__(self) -> Iterator[tuple[int, int]]:
        numbers = iter(self._numbers)
        return zip(numbers, numbers, strict=True)

    @overload
    def __getitem__(self, at: int) -> tuple[int, int]: ...

    @overload
    def __getitem__(self, at: slice) -> list[tuple[int, int]]: ...

    def __getitem__(self, at: int | slice) -> tuple[int, int] | list[tuple[int, int]]:
        if isinstance(at, slice):
            return [self[one] for one in range(*at.indices(len(self)))]
        place = range(len(self))[at]
        return self._numbers[2 * place], self._numbers[2 * place + 1]


def parts_of(stream: FileIO, size: int) -> Parts | None:
    """Return where a file has content; None if that is everywhere, or in too many parts."""
    found = Parts()
    place = 0
    while place < size:
        try:
            begun = stream.seek(place, os.SEEK_DATA)
            place = min(stream.seek(begun, os.SEEK_HOLE), size)
        except OSError as error:
            if error.errno == errno.ENXIO:  # a hole up to the end
                break
            if error.errno == errno.EINVAL:  # the file system cannot tell
                return None
            raise
        if (begun, place) == (0, size):
            return None
        found.add(begun, place - begun)
        if len(found) >= MOST_PARTS:
            return None
    if not found or sum(found[-1]) < size:
        found.add(size, 0)  # GNU tar takes the end of the last part for the end of the file
    return found
