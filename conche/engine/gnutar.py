"""An image that has nothing but this machine's GNU tar and `sleep`, with the libraries they need.

Images of an engine may all be without GNU tar, such as those of Alpine, whose tar knows neither attributes nor holes.
"""

from __future__ import annotations

import hashlib
import io
import platform
import re
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

from conche.engine import images
from conche.engine.connection import Engine, translated
from conche.errors import ConcheError, Unreachable
from conche.process import run

__all__ = ["REPOSITORY", "libraries", "provide"]

REPOSITORY = "conche-tar"
"""The image's name; its tag tells what is in it."""

_PLACE = re.compile(r"(?:=>\s+)?(/\S+)\s+\(0x[0-9a-f]+\)")
"""Where a library is, in a line of ldd(1)."""


def provide(engine: Engine) -> str | None:
    """Return the image's id, imported if the engine does not have it.

    Returns:
        None if this machine has no GNU tar that can be copied, or the engine runs programs of another processor.
    """
    try:
        content = _content()
    except (
        Unreachable,
        OSError,
    ):  # no ldd, a program that only root may read, a machine too busy: there are other ways
        return None
    if content is None or not _runs(engine):
        return None
    tag = hashlib.sha256(content).hexdigest()[:12]
    found = images.find(engine, f"{REPOSITORY}:{tag}")
    if found is None:
        try:
            with translated(engine.address):
                engine.client.api.import_image_from_data(content, repository=REPOSITORY, tag=tag)
        except ConcheError:  # a full disk, or an engine that lets nobody import: there are other ways
            return None
        found = images.find(engine, f"{REPOSITORY}:{tag}")
    return found.id if found else None


def libraries(said: str) -> list[Path]:
    """Return the files that ldd(1) names: the libraries of a program, and what loads it."""
    return [Path(place[1]) for line in said.splitlines() if (place := _PLACE.search(line))]


def _runs(engine: Engine) -> bool:
    with translated(engine.address):
        return bool(engine.client.api.info().get("Architecture") == platform.machine())


def _content() -> bytes | None:
    """Return a tar of the programs and their libraries, always the same for the same files."""
    paths = [shutil.which(name) for name in ("tar", "sleep")]
    version = run(["tar", "--version"], timeout=10) if paths[0] else None
    if None in paths or version is None or "GNU tar" not in version.stdout.raw:
        return None
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, source in dict(_members(Path(str(one)) for one in paths)).items():
            info = tarfile.TarInfo(name)
            content = source.read_bytes()
            info.size, info.mode = len(content), 0o755
            archive.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def _members(programs: Iterator[Path]) -> Iterator[tuple[str, Path]]:
    for program in programs:
        yield f"bin/{program.name}", program
        # Of a program without libraries ldd says so, and ends with 1.
        for library in libraries(run(["ldd", str(program)], timeout=10).stdout.raw):
            yield str(library).lstrip("/"), library
