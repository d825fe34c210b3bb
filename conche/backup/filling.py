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

from conche.backup.headers import header, parts, stored
from conche.backup.inflate import BLOCK, refusing
from conche.backup.losses import Losses
from conche.backup.source import Source
from conche.backup.strict import Admitted, Limits, Walked, admitted
from conche.backup.swap import Swap
from conche.backup.tree import tree_of
from conche.backup.within import File
from conche.engine import volumes
from conche.engine.connection import Engine
from conche.engine.packing import Helper, helping, unpack

__all__ = ["emitted", "fill_volume", "put_archive", "stage_in_volumes"]


def stage_in_volumes(source: Source, wanted: Mapping[str, Swap], number: str) -> Losses:
    """Unpack a component inside the volumes it goes to, beside their content; return what it comes back without.

    Args:
        wanted: the volumes, by the file in the backup that holds their content.
        number: the restore's number.
    """
    engine, losses = source.site.engine(source.site.section.components[source.name]), Losses()
    for file, swap in wanted.items():
        swap.prepare(number)
        with helping(engine, swap.volume, writable=True) as helper:
            losses.update(_fill(source, helper, f"{volumes.MOUNTED}/.restore-{number}", file))
    return losses


def fill_volume(source: Source, engine: Engine, volume: str) -> Losses:
    """Unpack a volume component into another, empty volume; return what it comes back without."""
    with helping(engine, volume, writable=True) as helper:
        return _fill(source, helper, volumes.MOUNTED, f"{source.name}.tar.gz")


def _fill(source: Source, helper: Helper, folder: str, file: str) -> Losses:
    archives = [one for one in source.record.artifacts if source.is_archive(one)]
    losses = Losses()
    if not archives:
        entries = source.plain("", losses, top=True) if tree_of(source.record) else _undescribed(source)
        _put(helper, folder, entries, losses)
    for artifact in archives:
        if Path(artifact.path).name == file:
            walked = Walked()
            with source.opened(artifact) as opened:
                _put(helper, folder, admitted(opened, source.limits(artifact), walked), losses)
            losses.update(walked.losses)
    return losses


def _put(helper: Helper, folder: str, entries: Iterable[Admitted], losses: Losses) -> None:
    """Unpack entries into a folder of a volume, by GNU tar, or, without that, by the engine."""
    if helper.packs:
        for line in unpack(helper, folder, emitted(entries)):
            losses.add("what tar says that it could not set", line.removeprefix("tar: "))
        return
    above, _, last = folder.rpartition("/")
    # The engine passes over the folder itself unless it has a name.
    volumes.put(helper.engine, helper.id, above or "/", emitted(_renamed(entries, last, losses)))


def _renamed(entries: Iterable[Admitted], above: str, losses: Losses) -> Iterator[Admitted]:
    for info, blocks in entries:
        if parts(info) is not None:
            losses.add("its holes, which take space now, since no image on the engine has GNU tar", info.name)
        info.name = above if info.name == "." else f"{above}/{info.name}"
        if info.islnk():
            info.linkname = f"{above}/{info.linkname}"
        yield info, blocks


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


def _undescribed(source: Source) -> Iterator[Admitted]:
    """Yield the plain files of a volume component of an earlier version with their folders, all with the same owner."""
    owner, _, group = source.record.facts.get("owner", "0:0").partition(":")
    made = int(source.folder.stat().st_mtime)  # backups keep no time of folders and links
    paths = [one.path for one in source.record.artifacts] + [one.path for one in source.record.links]
    walked, limits = Walked(), Limits(links_out=True)
    folders = {str(parent) for path in paths for parent in Path(path).relative_to(source.name).parents} - {"."}
    parents: Iterator[Admitted] = ((_folder(folder, 0o755), None) for folder in sorted(folders))
    with refusing(source.folder / source.name):
        for info, blocks in chain(parents, source.plain("", Losses())):
            info.uid, info.gid = int(owner), int(group)
            if blocks is None:
                info.mtime = made
            walked.admit(info, limits)
            yield info, blocks


def _folder(name: str, mode: int) -> TarInfo:
    info = TarInfo(name)
    info.type, info.mode = tarfile.DIRTYPE, mode
    return info
