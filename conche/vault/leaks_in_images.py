"""Searches an image: every layer, including files that a later layer removed, and its configuration and history."""

from __future__ import annotations

import bisect
import gzip
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from conche.engine.connection import Engine
from conche.errors import NotFound
from conche.files import private_folder
from conche.process import run
from conche.vault.leaks import UNREADABLE, Leak, Needles, folded, shown

__all__ = ["scan_image"]


def scan_image(engine: Engine, reference: str, needles: Needles) -> tuple[Leak, ...]:
    """Search an image of the engine: all layers, even what later ones removed, and the configuration with its history.

    Raises:
        NotFound: the engine has no such image.
    """
    from conche.engine import images

    found = images.find(engine, reference)
    if found is None:
        words = f"The engine does not have the image {reference}."
        raise NotFound("not-on-engine", words, looked_at=[engine.address], next_command="docker image ls")
    with private_folder(large=True) as folder:
        saved = folder / "image.tar"
        argv = ["docker", "image", "save", "--output", str(saved), found.id]
        run(argv, extra_env=engine.cli_environment()).require(f"Saving image {reference}")
        return _in_saved(saved, reference, needles)


def _in_saved(saved: Path, reference: str, needles: Needles) -> tuple[Leak, ...]:
    """Search the file written by `docker image save`, in the format of any engine, old or new."""
    places: set[tuple[str, str]] = set()
    with tarfile.open(saved) as archive:
        [image] = json.loads(_member(archive, "manifest.json").read())
        for where, text in _strings(json.loads(_member(archive, image["Config"]).read()), ""):
            places |= {(hit.name, where.lstrip(".")) for hit in needles.hits(io.BytesIO(text.encode(errors="replace")))}
        layers = image["Layers"] or []
        for number, layer in enumerate(layers, start=1):
            places |= {(name, f"layer {number} {path}") for name, path in _in_layer(_member(archive, layer), needles)}
        # The OCI layout has more blobs, such as attestations, which contain build arguments.
        named = {image["Config"], *layers}
        for member in archive:
            if member.isfile() and member.name.startswith("blobs/") and member.name not in named:
                places |= {(hit.name, member.name) for hit in needles.hits(_member(archive, member.name))}
    return folded(Leak(name, f"{reference} {shown(needles, where)}", "image") for name, where in places)


def _member(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    stream = archive.extractfile(name)
    assert stream is not None, f"{name} is a file in what docker image save writes"
    return stream


def _in_layer(compressed: IO[bytes], needles: Needles) -> Iterator[tuple[str, str]]:
    """Yield secrets' names with the paths they occur in; the layer is searched whole, and listed only on a hit."""
    magic = compressed.read(4)
    compressed.seek(0)
    if magic == b"\x28\xb5\x2f\xfd":
        yield UNREADABLE, "(zstd)"
        return
    layer = cast(IO[bytes], gzip.GzipFile(fileobj=compressed)) if magic[:2] == b"\x1f\x8b" else compressed
    hits = list(needles.hits(layer))
    if not hits:
        return
    layer.seek(0)
    with tarfile.open(fileobj=layer) as files:
        # A member's offset is its header's, so a secret in its name is attributed to it too.
        starts = [(member.offset, member.name) for member in files]
    for hit in hits:
        after = bisect.bisect_right(starts, hit.offset, key=lambda start: start[0])
        yield hit.name, starts[max(0, after - 1)][1]


def _strings(value: Any, where: str) -> Iterator[tuple[str, str]]:
    """Yield every string in a JSON document, including keys, with its place, such as `.config.Env[0]`."""
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _strings(item, f"{where}[{number}]")
    elif isinstance(value, dict):
        for key, item in value.items():
            yield f"{where}.{key}", key
            yield from _strings(item, f"{where}.{key}")
