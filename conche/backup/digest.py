"""Hashes on a thread of its own, while the caller reads and writes."""

from __future__ import annotations

import hashlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

__all__ = ["WORTH_A_THREAD", "Digest"]

WORTH_A_THREAD = 256 * 1024
"""Bytes from which another thread does something with them; with less, handing them over takes longer than doing it."""

IN_FLIGHT = 8


class Digest:
    """A sha256 of what it is given, in order.

    Args:
        pool: a pool of one thread.
    """

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool, self._hash = pool, hashlib.sha256()
        self._pending: deque[Future[None]] = deque()

    def update(self, block: bytes | memoryview) -> None:
        """Add a block, sooner or later; it must stay as it is."""
        if not self._pending and len(block) < WORTH_A_THREAD:
            self._hash.update(block)
            return
        self._pending.append(self._pool.submit(self._hash.update, block))
        while len(self._pending) > IN_FLIGHT or (self._pending and self._pending[0].done()):
            self._pending.popleft().result()

    def copy(self) -> Digest:
        """Return another one that goes on from here."""
        self._settle()
        other = Digest(self._pool)
        other._hash = self._hash.copy()
        return other

    def hexdigest(self) -> str:
        """Return the hash of everything."""
        self._settle()
        return self._hash.hexdigest()

    def _settle(self) -> None:
        while self._pending:
            self._pending.popleft().result()
