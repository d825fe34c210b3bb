"""Reads files inside containers, running or not, through the engine."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Iterator

from conche.engine.connection import Engine, translated
from conche.errors import Unreachable

__all__ = ["file_in"]

LARGEST_READ = 4 << 20
"""Bytes of the largest archive that is read from a container."""


def file_in(engine: Engine, container_id: str, path: str) -> tuple[bytes, float] | None:
    """Read a small file of a container, running or not, and its modification time; None if there is none.

    Raises:
        Unreachable: it is larger than `LARGEST_READ`.
    """
    import docker.errors

    with translated(engine.address):
        try:
            stream, _ = engine.client.api.get_archive(container_id, path)
        except docker.errors.NotFound:
            return None
        content = b"".join(_bounded(stream, path))
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        member = archive.next()
        read = archive.extractfile(member) if member is not None and member.isfile() else None
        return (read.read(), float(member.mtime)) if read is not None and member is not None else None


def _bounded(stream: Iterable[bytes], path: str) -> Iterator[bytes]:
    size = 0
    for block in stream:
        size += len(block)
        if size > LARGEST_READ:
            raise Unreachable("file-too-large", f"{path} is larger than {LARGEST_READ >> 20} MiB.", looked_at=[path])
        yield block
