"""Looks inside containers through the engine: at files, running or not, and at processes."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from http import HTTPStatus

from conche.engine.connection import Engine, translated
from conche.engine.frames import frames
from conche.errors import Unreachable
from conche.process import Captured, Completed

__all__ = ["execute", "file_in", "processes"]

LARGEST_READ = 4 << 20
"""Bytes of the largest archive that is read from a container."""

SILENCE = 60.0
"""Seconds for which a short command may say nothing."""

LISTED = (
    "for one in /proc/[0-9]*; do "
    'if said=$(tr "\\0" " " < "$one/cmdline") 2> /dev/null; then echo "${one#/proc/} $said"; fi; done'
)
"""Shell: the number and the command line of each process, by what every image with a shell has."""


def processes(engine: Engine, container_id: str) -> dict[str, str]:
    """Return the processes of a running container: number -> command line.

    Without cgroups the engine cannot list them, as in rootless mode on a host with cgroups of version 1. Then the
    container's own /proc tells; its numbers are others, and always those, so that two answers can be compared.
    """
    import docker.errors

    api = engine.client.api
    with translated(engine.address):
        try:
            running = api.top(container_id)
        except docker.errors.APIError as error:
            if error.status_code != HTTPStatus.INTERNAL_SERVER_ERROR or api.info().get("CgroupDriver") != "none":
                raise
            running = None
    if running is None:
        listed = execute(engine, container_id, ("sh", "-c", LISTED)).require("listing the processes of a container")
        parts = (line.partition(" ") for line in listed.stdout.raw.splitlines())
        found = {number: said.strip() for number, _, said in parts}
        if not found:  # not even the shell that lists them: it has no `tr`
            raise Unreachable(
                "processes-not-listed",
                "Neither the engine nor the container lists the processes of a container.",
                looked_at=[f"container {container_id[:12]}"],
                next_command="use an image with sh and tr",
            )
        return found
    place = running["Titles"].index("PID")
    return {row[place]: row[-1] for row in running["Processes"]}


def execute(engine: Engine, container_id: str, argv: Sequence[str]) -> Completed:
    """Run a short command in a running container, through the engine itself, which saves a process each time."""
    api = engine.client.api
    with translated(engine.address):
        made = api.exec_create(container_id, list(argv))["Id"]
        blocks = list(frames(engine, made, SILENCE))
        code = int(api.exec_inspect(made)["ExitCode"])
    out, err = (b"".join(block[of] or b"" for block in blocks).decode(errors="replace") for of in (0, 1))
    return Completed(tuple(argv), code, Captured(out), Captured(err))


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
