"""Simulate users: requests at a steady rate from a thread of their own, each on a connection of its own."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

ANSWER = 60.0
"""Seconds after which a request counts as lost: on a machine with much else to do a good answer may take many."""


@dataclass
class Load:
    """Sends requests to one address within a `with` block.

    Args:
        rate: requests a second, sent on time whether or not earlier ones were answered.

    Attributes:
        failures: what became of each lost request, with the time it was sent.
        answers: of each good answer: time sent, time answered, release and version.
    """

    port: int
    path: str = "/"
    rate: float = 40.0
    failures: list[tuple[float, str]] = field(default_factory=list)
    answers: list[tuple[float, float, str, str]] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=lambda: asyncio.run(self._ask()), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        assert self._thread is not None
        self._thread.join(ANSWER + 10)

    @property
    def asked(self) -> int:
        return len(self.failures) + len(self.answers)

    def releases(self, since: float = 0.0) -> set[str]:
        """Return the releases that have answered requests sent since then."""
        return {release for sent, _, release, _ in self.answers if sent >= since}

    def versions(self) -> set[str]:
        """Return the versions that have answered."""
        return {version for _, _, _, version in self.answers}

    def until(self, condition: Callable[[Load], bool]) -> None:
        """Wait until a condition holds; only the test's own time-out ends it otherwise."""
        while not condition(self):
            self._over.wait(0.01)

    async def _ask(self) -> None:
        begun, count, tasks = time.monotonic(), 0, set[asyncio.Task[None]]()
        while not self._over.is_set():
            task = asyncio.create_task(self._one())
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            count += 1
            await asyncio.sleep(max(0.0, begun + count / self.rate - time.monotonic()))
        await asyncio.gather(*tasks)

    async def _one(self) -> None:
        sent = time.monotonic()
        try:
            status, body = await asyncio.wait_for(self._request(), ANSWER)
            said = json.loads(body)
            if status == 200:
                self.answers.append((sent, time.monotonic(), str(said["release"]), str(said["version"])))
                return
            self.failures.append((sent, f"{status} {body[:100]!r}"))
        except (OSError, ValueError, KeyError, TimeoutError, EOFError) as error:
            self.failures.append((sent, repr(error)))

    async def _request(self) -> tuple[int, bytes]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(f"GET {self.path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")
            )
            return int(head.split(b" ", 2)[1]), await reader.readexactly(length)
        finally:
            writer.close()
