"""Fills volumes and folders of containers from a backup.

The engine unpacks as root whatever it is given. So no archive is given to it as it is: each is read by the strict
reader (strict.py), and what that admits is written anew, the links last.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from tarfile import TarInfo

from conche.backup.headers import header, stored
from conche.backup.inflate import BLOCK, refusing
from conche.backup.losses import Losses
from conche.backup.source import Source
from conche.backup.strict import Admitted, Limits, Walked, admitted
from conche.backup.swap import Swap
from conche.backup.within import File
from conche.engine import volumes
from conche.engine.connection import Engine

__all__ = ["emitted", "fill_volume", "put_archive", "stage_in_volumes"]


def stage_in_volumes(source: Source, wanted: Mapping[str, Swap], number: str) -> Losses:
    """Unpack a component inside the volumes it goes to, beside their content; return what it comes back without.

    Args:
        wanted: the volumes, by the file in the backup that holds their content.
        number: the restore's number.
    """
    engine, losses = source.site.engine(source.site.section.components[source.name]), Losses()
    for file, swap in wanted.items():
        with volumes.mounted(engine, swap.volume, writable=True) as helper:
            volumes.put(engine, helper, volumes.MOUNTED, emitted([(_folder(f".restore-{number}", 0o700), None)]))
            losses.update(_fill(source, engine, helper, f"{volumes.MOUNTED}/.restore-{number}", file))
    return losses


def fill_volume(source: Source, engine: Engine, volume: str) -> Losses:
    """Unpack a volume component into another, empty volume; return what it comes back without."""
    with volumes.mounted(engine, volume, writable=True) as helper:
        return _fill(source, engine, helper, volumes.MOUNTED, f"{source.name}.tar.gz")


def _fill(source: Source, engine: Engine, helper: str, folder: str, file: str) -> Losses:
    archives = [one for one in source.record.artifacts if source.is_archive(one)]
    if not archives:
        volumes.put(engine, helper, folder, emitted(_plain(source)))
        return Losses()
    losses = Losses()
    for artifact in archives:
        if Path(artifact.path).name == file:
            with source.opened(artifact) as opened:
                losses.update(put_archive(engine, helper, folder, opened, source.limits(artifact)).losses)
    return losses


def put_archive(engine: Engine, container: str, folder: str, file: File, limits: Limits) -> Walked:
    """Unpack a tar.gz into a folder of a container; if it fails, what was unpacked stays there.

    Raises:
        CheckFailed: the archive is damaged, has an entry that no backup has, or breaks its limits.
    """
    walked = Walked()
    volumes.put(engine, container, folder, emitted(admitted(file, limits, walked)))
    return walked


def emitted(entries: Iterable[Admitted]) -> Iterator[bytes]:
    """Write entries anew as a tar stream, in blocks of about a megabyte: the engine takes long over many small ones."""
    parts: list[bytes] = []
    length = 0
    for part in _tar(entries):
        parts.append(part)
        length += len(part)
        if length >= BLOCK:
            yield b"".join(parts)
            parts, length = [], 0
    yield b"".join(parts)


def _tar(entries: Iterable[Admitted]) -> Iterator[bytes]:
    for info, blocks in entries:
        yield header(info)
        if blocks is not None:
            yield from blocks
            yield bytes(-stored(info) % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _plain(source: Source) -> Iterator[Admitted]:
    """Yield the plain files of a volume component with their folders, all with the same owner."""
    owner, _, group = source.record.facts.get("owner", "0:0").partition(":")
    made = int(source.folder.stat().st_mtime)  # backups keep no time of folders and links
    paths = [one.path for one in source.record.artifacts] + [one.path for one in source.record.links]
    walked, limits = Walked(), Limits(links_out=True)
    folders = {str(parent) for path in paths for parent in Path(path).relative_to(source.name).parents} - {"."}
    parents: Iterator[Admitted] = ((_folder(folder, 0o755), None) for folder in sorted(folders))
    with refusing(source.folder / source.name):
        for info, blocks in chain(parents, source.plain("")):
            info.uid, info.gid = int(owner), int(group)
            if blocks is None:
                info.mtime = made
            walked.admit(info, limits)
            yield info, blocks


def _folder(name: str, mode: int) -> TarInfo:
    info = TarInfo(name)
    info.type, info.mode = tarfile.DIRTYPE, mode
    return info
