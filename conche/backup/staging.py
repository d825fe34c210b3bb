"""Unpacks a backup beside what is there, so that whatever can fail does so before anything is touched."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from conche.backup import sealing
from conche.backup.drivers import in_container, influxdb
from conche.backup.drivers.keyring import KEY
from conche.backup.exchange import Pair
from conche.backup.extract import extract, fill
from conche.backup.filling import stage_in_volumes
from conche.backup.influx import CONFIG, DATA
from conche.backup.losses import Losses
from conche.backup.manifest import Artifact
from conche.backup.reading import Reading
from conche.backup.site import Site
from conche.backup.source import Source
from conche.backup.strict import DEEPEST
from conche.backup.swap import Swap
from conche.backup.tree import tree_of
from conche.engine import volumes
from conche.errors import KeyUnusable
from conche.vault import keys

__all__ = ["Staged", "opened_key", "place_of", "places", "stage", "unpack", "unsaved", "volumes_of"]


@dataclass
class Staged:
    """What is ready to be exchanged.

    Attributes:
        warnings: what is not restored, and why.
        losses: what it comes back without.
    """

    pairs: list[Pair] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    losses: Losses = field(default_factory=Losses)


def unpack(source: Source, into: Path, unset: Losses | None = None) -> Losses:
    """Unpack a component into a new folder, at its paths relative to stack.yaml; return what it comes back without.

    Args:
        unset: is told what this file system, or this user, cannot set; default: what is returned is.
    """
    into.mkdir(mode=0o700, parents=True, exist_ok=True)
    losses = Losses()
    for artifact in source.record.artifacts:
        if source.is_archive(artifact):
            with source.opened(artifact) as file:
                losses.update(extract(file, into, source.limits(artifact), unset).losses)
    entries = source.plain(source.record.facts.get("folder", ""), losses)
    fill(into, entries, losses if unset is None else unset, parents=0o755, sync=True)
    return losses


def stage(source: Source, staging: Path, number: str) -> Staged:
    """Unpack a component next to the place it goes to."""
    into = staging / source.name
    if in_volumes := volumes_of(source):
        return Staged(losses=stage_in_volumes(source, in_volumes, number))
    staged = Staged(losses=unpack(source, into))
    root = source.site.root
    found = places(source)
    if source.record.driver == "secrets":
        found += _staged_key(source, into, staged)
    found = _outermost(found)
    _open_others(source, into, found)
    for place in found:
        pair = Pair.of(into / place, root / place)
        staged.pairs += [pair, *(Pair.carrying(pair, name) for name in unsaved(source.site, source.name, root / place))]
    return staged


def places(source: Source) -> list[Path]:
    """Return the files and folders that a component exchanges, relative to stack.yaml, without the age key."""
    if in_container(source.record.driver):
        return []
    if source.record.driver == "archive":
        return [Path(source.record.facts.get(Path(one.path).name, "")) for one in source.record.artifacts]
    if source.record.facts.get("whole"):
        return [Path(source.record.facts["folder"])]
    if tree_of(source.record):
        return _described_places(source)
    paths = [*(one.path for one in source.record.artifacts), *(one.path for one in source.record.links)]
    found = [place_of(source, path) for path in paths]
    return [place for place in found if source.record.driver != "secrets" or place != _KEY_PLACE]


def _described_places(source: Source) -> list[Path]:
    """Return the files and links of a component, and the folders that are not there now."""
    found = []
    for info in source.described:
        place = Path(source.record.facts.get("folder", "")) / info.name
        if not info.isdir() or (info.name != "." and not os.path.lexists(source.site.root / place)):
            found.append(place)
    return found


def _outermost(found: Sequence[Path]) -> list[Path]:
    """Return the places that are not below another one."""
    every = set(found)
    return [place for place in found if not every.intersection(place.parents)]


def _open_others(source: Source, into: Path, found: Sequence[Path]) -> None:
    """Let this user move what is in staged folders that themselves stay here, whatever their mode is."""
    taken = set(found)
    for info in source.described:
        place = Path(source.record.facts.get("folder", "")) / info.name
        if info.isdir() and not taken.intersection((place, *place.parents)):
            (into / place).chmod(0o700)


def unsaved(site: Site, name: str, folder: Path) -> Iterator[str]:
    """Yield what is below a folder of a component to be exchanged but in no backup by rule, such as a .env."""
    component = site.section.components.get(name)
    reading = Reading(exclude=(*site.never(), *(component.exclude if component else ())))
    if folder.is_symlink() or not folder.is_dir():
        return
    for inside, folders, files in os.walk(folder):
        relative = Path(inside).relative_to(site.root)
        taken = [one for one in (*folders, *files) if reading.excludes(str(relative / one))]
        # Nothing deeper is in an archive, and os.walk cannot go deeper than Python's recursion limit.
        below = [] if len(relative.parts) > DEEPEST else folders
        folders[:] = [one for one in below if one not in taken]
        yield from (str((Path(inside) / one).relative_to(folder)) for one in taken)


_KEY_PLACE = Path(KEY)


def place_of(source: Source, path: str) -> Path:
    """Return where a plain file of a backup belongs, relative to stack.yaml."""
    below = Path(path).relative_to(source.name)
    return Path(source.record.facts.get("folder", "")) / below


def opened_key(source: Source, sealed: Artifact) -> bytes | None:
    """Return the age key of a backup; None if it cannot be opened but is not needed, since there is one already.

    Raises:
        KeyUnusable: it cannot be opened, but is needed.
    """
    try:
        return sealing.open_sealed(source.read(sealed), source.recovery)
    except KeyUnusable:
        if source.recovery is None and (source.site.root / keys.DEFAULT_FILE).exists():
            return None
        raise


def _staged_key(source: Source, into: Path, staged: Staged) -> list[Path]:
    """Stage the opened age key and return its place; nothing, with a warning, if there is none or it is not needed."""
    sealed = next((one for one in source.record.artifacts if one.path.endswith(f"/{KEY}")), None)
    if sealed is None:
        staged.warnings.append("this backup holds no age key")
        return []
    opened = opened_key(source, sealed)
    if opened is None:
        staged.warnings.append(f"{keys.DEFAULT_FILE} stays as it is: the one in the backup is encrypted")
        return []
    place = into / keys.DEFAULT_FILE
    place.parent.mkdir(mode=0o700, parents=True)
    (source.site.root / keys.DEFAULT_FILE).parent.mkdir(mode=0o700, exist_ok=True)
    with os.fdopen(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
        stream.write(_commented(opened))
    return [keys.DEFAULT_FILE]


def _commented(key: bytes) -> bytes:
    """Return a key file with the public keys added, which a backup keeps apart from the key."""
    lines = key.decode(errors="replace").split()
    return keys.as_file(lines).encode() if all(keys.public_or_none(line) for line in lines) else key


def volumes_of(source: Source) -> dict[str, Swap]:
    """Return the volumes whose content a component exchanges, by the file in the backup that holds it."""
    component = source.site.section.components.get(source.name)
    if component is None or component.environment is None:
        return {}
    address = source.site.stack.environments[component.environment].engine
    if source.record.driver == "volume" and component.volume:
        return {f"{source.name}.tar.gz": Swap(address, component.volume)}
    if source.record.driver != "influxdb" or source.record.facts.get("form") != "cold":
        return {}
    engine, container = source.site.engine(component), influxdb.find(source.site, component)
    found = {
        influxdb.DATA_FILE: volumes.at(engine, container.id, DATA),
        influxdb.CONFIG_FILE: volumes.at(engine, container.id, CONFIG),
    }
    return {file: Swap(address, volume) for file, volume in found.items() if volume}
