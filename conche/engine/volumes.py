"""Reads and writes the contents of a volume or folder through its engine, even a remote one.

A container that is created but never started gives access: the engine copies from and to what is mounted in it. Only
replacing a volume's contents needs a running container, for some renames.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any, cast

from conche.engine import containers, mounting
from conche.engine.connection import OF_NO_PROJECT, Engine, EngineRefused, translated
from conche.engine.containers import Container
from conche.engine.gnutar import REPOSITORY
from conche.errors import ConcheError, NotFound, Refused, Unreachable
from conche.process import run

__all__ = [
    "LABEL",
    "MOUNTED",
    "TRIES",
    "UNUSABLE",
    "at",
    "clear_helpers",
    "exists",
    "images",
    "is_mounted_in",
    "mounted",
    "opened",
    "put",
    "run_beside",
    "using",
]

MOUNTED = "/conche-volume"
"""Where a volume is mounted in the containers made here."""

LABEL = "io.conche.helper-of"
"""Label of the temporary containers and volumes made here, with the volume they serve."""

TRIES = 8
"""How many images are tried: each takes a second, and many have the same base."""

UNUSABLE = (EngineRefused, NotFound)
"""What an engine says of an image that is damaged, or gone since it was listed."""

CHUNK = 1 << 20


class Stream(io.RawIOBase):
    """The engine's response as a file object."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks, self._rest = chunks, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._rest:
            self._rest = next(self._chunks, b"")
        count = min(len(buffer), len(self._rest))
        buffer[:count], self._rest = self._rest[:count], self._rest[count:]
        return count


def exists(engine: Engine, volume: str) -> bool:
    """Return whether the engine has a volume of that name; always for a host folder, which is created on first use."""
    import docker.errors

    if volume.startswith("/"):
        return True
    with translated(engine.address):
        try:
            engine.client.api.inspect_volume(volume)
        except docker.errors.NotFound:
            return False
    return True


def using(engine: Engine, *places: str) -> tuple[Container, ...]:
    """Return the containers, in any state, that use one of these volumes or host paths (mounting.py).

    Our own helpers are left out, and so is the container in which this process runs.
    """
    if not places:
        return ()
    with translated(engine.address):
        listed = engine.client.api.containers(all=True)
        known = mounting.volume_paths(engine.client.api.volumes().get("Volumes") or [])
    resolve = os.path.realpath if engine.is_local else str
    wanted, own = mounting.Places.of(places, known, resolve), mounting.own_container()
    ids = [
        one["Id"]
        for one in listed
        if LABEL not in (one.get("Labels") or {})
        and one["Id"] != own
        and any(map(wanted.reached_by, mounting.mounts(one.get("Mounts") or [], known, resolve)))
    ]
    return tuple(found for one in ids if (found := containers.read(engine, one)))


def is_mounted_in(engine: Engine, container_id: str, volume: str) -> bool:
    """Return whether exactly this volume or folder is mounted in a container, not something above or below it."""
    with translated(engine.address):
        mounts = engine.client.api.inspect_container(container_id)["Mounts"]
    return any(volume in (mount.get("Name"), mount.get("Source")) for mount in mounts)


def at(engine: Engine, container_id: str, path: str) -> str | None:
    """Return the volume or folder that is mounted at a path of a container."""
    with translated(engine.address):
        mounts = engine.client.api.inspect_container(container_id)["Mounts"]
    return next((mount.get("Name") or mount["Source"] for mount in mounts if mount["Destination"] == path), None)


@contextlib.contextmanager
def mounted(engine: Engine, volume: str, *, writable: bool = False) -> Iterator[str]:
    """Provide the id of a container, never started, with the volume at `MOUNTED`, for this block."""
    made = _made(engine, volume, f"{volume}:{MOUNTED}{'' if writable else ':ro'}")
    try:
        yield made
    finally:
        containers.remove(engine, made)


def clear_helpers(engine: Engine, volume: str) -> None:
    """Remove what an interrupted command has left for a volume: containers, and a drill's volume."""
    wanted = {"label": [f"{LABEL}={volume}"]}
    with translated(engine.address):
        for one in engine.client.api.containers(all=True, filters=wanted):
            containers.remove(engine, one["Id"])
        for one in engine.client.api.volumes(filters=wanted).get("Volumes") or []:
            engine.client.api.remove_volume(one["Name"], force=True)


@contextlib.contextmanager
def opened(engine: Engine, container_id: str, path: str) -> Iterator[IO[bytes]]:
    """Open a file or folder of a container, running or not, as a tar stream.

    Raises:
        NotFound: there is no such path.
    """
    with translated(engine.address):
        chunks, _ = engine.client.api.get_archive(container_id, path, chunk_size=CHUNK)
        yield io.BufferedReader(Stream(iter(chunks)), CHUNK)


def put(engine: Engine, container_id: str, path: str, chunks: Iterable[bytes]) -> None:
    """Unpack a tar stream into a folder of a container, running or not."""
    with translated(engine.address):
        done = engine.client.api.put_archive(container_id, path, cast("bytes", iter(chunks)))
    if not done:
        raise Unreachable("engine-stream-broken", f"The engine did not accept what was sent to {path}.")


def run_beside(engine: Engine, volume: str, script: str, arguments: Sequence[str]) -> str:
    """Run a shell script as root in a new container without network, in the volume's folder, and return its output.

    Raises:
        Refused: no image of the engine has a shell.
        ToolFailed: the script failed.
    """
    argv = [
        "docker", "run", "--rm", "--network", "none", "--user", "0:0", "--entrypoint", "/bin/sh",
        "--label", f"{LABEL}={volume}",
        "--volume", f"{volume}:{MOUNTED}", "--workdir", MOUNTED, "--pull", "never",
    ]  # fmt: skip
    said: tuple[str, ...] = ()
    for image in images(engine, volume):
        completed = run(
            [*argv, image, "-euc", script, "sh", *arguments], extra_env=engine.cli_environment(), timeout=900
        )
        if "/bin/sh" not in completed.stderr.raw or "exec" not in completed.stderr.raw:
            return completed.require(f"working in the volume {volume}").stdout.raw
        said = completed.last_lines(2)
    raise Refused(
        "no-shell-image",
        f"No image on the engine has a shell to work in the volume {volume} with.",
        evidence=said,
        next_command="docker pull busybox",
    )


def _made(engine: Engine, volume: str, mount: str) -> str:
    """Return the id of a container of the first image that it can be made of."""
    refused: ConcheError = NotFound(
        "no-image", "The engine has no image to access a volume with.", next_command="invoke images.base"
    )
    for image in itertools.islice(images(engine, volume), TRIES):
        try:
            with translated(engine.address):
                api = engine.client.api
                config = api.create_host_config(binds=[mount])
                labels = {**OF_NO_PROJECT, LABEL: volume}
                made = api.create_container(image, ["true"], labels=labels, host_config=config)
                return str(made["Id"])
        except UNUSABLE as error:
            refused = error
    raise refused


def images(engine: Engine, volume: str) -> Iterator[str]:
    """Yield the ids of images, first those of containers that use the volume; ours, without a shell, is left out."""
    seen: set[str] = set()
    with translated(engine.address):
        every = [
            image["Id"]
            for image in engine.client.api.images()
            if not any(tag.startswith(f"{REPOSITORY}:") for tag in image.get("RepoTags") or ())
        ]
    for image in [*(one.image_id for one in using(engine, volume)), *every]:
        if image not in seen:
            seen.add(image)
            yield image
