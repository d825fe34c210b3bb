"""Shares the files that an earlier backup also has, by hard links: a new backup costs what changed."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from conche.backup import within
from conche.backup.manifest import Artifact, ComponentRecord
from conche.backup.target import StoredBackup
from conche.backup.within import File

__all__ = ["NO_LINKS", "is_ours_alone", "linked_to"]

WRITABLE = stat.S_IWGRP | stat.S_IWOTH

NO_LINKS = (errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)


def linked_to(
    folder: Path, records: dict[str, ComponentRecord], previous: list[StoredBackup], linked: Collection[str] = ()
) -> tuple[list[str], int]:
    """Replace files that an earlier backup also has by hard links; return warnings and the number of bytes saved.

    Args:
        linked: paths of files that are such links already.
    """
    every = (one for record in records.values() for one in record.artifacts)
    made = [one for one in every if one.size and one.path not in linked]
    warnings, saved = [], 0
    for one, twin in _twins(made, previous, folder.stat()):
        ours = folder / one.path
        # The earlier file may have rotted: then keep the new one, and report the old one.
        with within.opened(folder, one.path) as file:
            if os.path.samestat(file.seen, twin.seen):  # another name of a file that is linked already
                saved += one.size
                continue
            same = file.equals(twin)
        if not same:
            warnings.append(f"{twin.path} is damaged; run: invoke backup.verify --all")
            continue
        aside = ours.with_name(f".{ours.name}.link")
        try:
            os.link(twin.path, aside)
        except OSError as error:
            if error.errno == errno.EMLINK:  # it has as many names as the file system allows
                continue
            if error.errno not in NO_LINKS:
                raise
            return [*warnings, "this file system has no hard links: unchanged files are stored again"], saved
        # Something else may stand there since it was read.
        if not os.path.samestat(twin.seen, aside.lstat()):
            aside.unlink()
            continue
        os.replace(aside, ours)
        saved += one.size
    return warnings, saved


def _twins(
    made: Iterable[Artifact], previous: Iterable[StoredBackup], own: os.stat_result
) -> Iterator[tuple[Artifact, File]]:
    """Yield each artifact that an earlier backup also has, with its file there: of the same name, or another's.

    Every backup counts: a component may have been missing from any number of them.

    Args:
        own: the folder of the new backup: what another user may write to is not shared with it.
    """
    left = list(made)
    for one in previous:
        there = list(one.manifest.artifacts()) if one.manifest else []
        named, alike = {twin.path: twin for twin in there}, {twin.sha256: twin for twin in there}
        kept, left = left, []
        for ours in kept:
            twin = named.get(ours.path)
            if twin is None or twin.sha256 != ours.sha256:
                twin = alike.get(ours.sha256)
            file = _opened(one, twin.path, own) if twin is not None and twin.size == ours.size else None
            if file is None:
                left.append(ours)
                continue
            with file:
                yield ours, file


def _opened(one: StoredBackup, name: str, own: os.stat_result) -> File | None:
    """Open a file of an earlier backup; None if it is missing, or is not ours alone."""
    try:
        file = within.opened(one.folder, name)
    except OSError:
        return None
    if is_ours_alone(file.seen, own):
        return file
    file.close()
    return None


def is_ours_alone(seen: os.stat_result, own: os.stat_result) -> bool:
    """Return whether a file belongs to whom a folder does, and nobody else can write to it who cannot to the folder."""
    return seen.st_uid == own.st_uid and not seen.st_mode & ~own.st_mode & WRITABLE
