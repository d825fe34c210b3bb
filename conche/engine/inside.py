"""Looks inside containers through the engine: at files, running or not, and at processes."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Iterator
from http import HTTPStatus

from conche.engine.connection import Engine, translated
from conche.errors import Unreachable

__all__ = ["file_in", "processes"]

LARGEST_READ = 4 << 20
"""Bytes of the largest archive that is read from a container."""


LISTED = (
    "for one in /proc/[0-9]*; do "
    'if said=$(tr "\\0" " " < "$one/cmdline") 2> /dev/null; then echo "${one#/proc/} $said"; fi; done'
)
"""Shell: the number and the command line of each process, by what every image with a shell has."""


def processes(engine: Engine, container_id: str) -> dict[str, str]:
    """Return the processes of a running container: number -> command line.

    Without cgroups the engine cannot list them, as in rootless mode on a host with cgroups of version 1. Then the
    container's own /proc tells; its numbers are others.
    """
    import docker.errors

    api = engine.client.api
    with translated(engine.address):
        try:
            running = api.top(container_id)
        except docker.errors.APIError as error:
            if error.status_code != HTTPStatus.INTERNAL_SERVER_ERROR:
                raise
            made = api.exec_create(container_id, ["sh", "-c", LISTED], stderr=False)["Id"]
            lines = api.exec_start(made).decode(errors="replace").splitlines()
            return {number: said.strip() for number, _, said in (line.partition(" ") for line in lines)}
    place = running["Titles"].index("PID")
    return {row[place]: row[-1] for row in running["Processes"]}


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
