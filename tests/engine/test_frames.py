"""What a program says is read from its first byte on, however it arrives."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest

from conche.engine import programs
from conche.engine.connection import Engine

ANSWER = (
    b"HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\n"
    b"Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
)
SAID = ((1, b"the beginning"), (2, b"a warning"), (1, b"x" * 300_000), (1, b"the end"))


def frame(stream: int, content: bytes) -> bytes:
    return struct.pack(">BxxxL", stream, len(content)) + content


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """An engine whose program has begun to speak before its answer was read."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / "s"))
    server.listen()

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    yield Engine(f"unix://{tmp_path}/s")
    server.shutdown(socket.SHUT_RDWR)
    server.close()


def answer(connection: socket.socket) -> None:
    with connection, connection.makefile("rb") as reader:
        while request := reader.readline():
            size = 0
            while (line := reader.readline().strip()) != b"":
                if line.lower().startswith(b"content-length:"):
                    size = int(line.partition(b":")[2])
            reader.read(size)
            if b"/start" in request:
                connection.sendall(ANSWER + b"".join(frame(*one) for one in SAID))
                return
            body = {"Id": "1", "ExitCode": 0, "ApiVersion": "1.41"}
            content = json.dumps(body).encode()
            head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
            connection.sendall(head.encode() + content)


def test_nothing_is_lost_of_what_arrives_together_with_the_answer(engine: Engine) -> None:
    said = deque[bytes]()

    found = b"".join(programs.output(engine, "c", ["dump"], number="1", said=said))

    assert found == b"the beginning" + b"x" * 300_000 + b"the end"
    assert list(said) == [b"a warning"]
