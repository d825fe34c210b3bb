"""The strict reader and the extractor, by the path of an archive."""

from __future__ import annotations

from pathlib import Path

from conche.backup import extract as extracting
from conche.backup import strict, within
from conche.backup.strict import Limits, Walked


def extract(archive: Path, into: Path, limits: Limits) -> Walked:
    with within.opened(archive.parent, archive.name) as file:
        return extracting.extract(file, into, limits)


def walk(archive: Path, limits: Limits) -> Walked:
    with within.opened(archive.parent, archive.name) as file:
        return strict.walk(file, limits)
