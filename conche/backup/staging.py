"""Unpacks a backup beside what is there, so that whatever can fail does so before anything is touched."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

from conche.backup import sealing
from conche.backup.drivers import FOREIGN, influxdb
from conche.backup.drivers.keyring import KEY
from conche.backup.entries import Reading
from conche.backup.exchange import Pair
from conche.backup.extract import BLOCK, DEEPEST, Limits, extract, inflated
from conche.backup.influx import CONFIG, DATA
from conche.backup.manifest import Artifact, ComponentRecord
from conche.backup.site import Site
from conche.backup.swap import Swap
from conche.engine import volumes
from conche.engine.connection import Engine
from conche.errors import KeyUnusable
from conche.vault import keys

__all__ = [
    "Source",
    "Staged",
    "blocks",
    "fill_volume",
    "opened_key",
    "place_of",
    "places",
    "stage",
    "unpack",
    "unsaved",
    "volumes_of",
]


@dataclass(frozen=True)
class Source:
    """A component of a backup that is to be restored.

    Attributes:
        folder: the backup's folder.
        recovery: the text of the key that opens the age key in it.
    """

    site: Site
    folder: Path
    name: str
    record: ComponentRecord
    recovery: bytes | None = None

    def file(self, artifact: Artifact) -> Path:
        """Return an artifact's file."""
        return self.folder / artifact.path


@dataclass
class Staged:
    """What is ready to be exchanged.

    Attributes:
        warnings: what is not restored, and why.
    """

    pairs: list[Pair] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def unpack(source: Source, into: Path) -> None:
    """Unpack a component as plain files into a new folder, at their paths relative to stack.yaml."""
    into.mkdir(mode=0o700, parents=True, exist_ok=True)
    for artifact in source.record.artifacts:
        if artifact.members:
            foreign = source.record.driver in FOREIGN
            limits = Limits(artifact.members, artifact.content, exact=True, links_out=foreign)
            extract(source.file(artifact), into, limits)
        elif artifact.pieces:
            _inflate(source.file(artifact), into / Path(artifact.path).name.removesuffix(".gz"))
        elif not (source.record.driver == "secrets" and artifact.path.endswith(f"/{KEY}") and source.recovery):
            _copy(source, artifact, into / place_of(source, artifact.path))
    for link in source.record.links:
        place = into / place_of(source, link.path)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(link.target)


def stage(source: Source, staging: Path, number: str) -> Staged:
    """Unpack a component next to the place it goes to."""
    into = staging / source.name
    if in_volumes := volumes_of(source):
        _stage_in_volumes(source, in_volumes, number)
        return Staged()
    staged = Staged()
    unpack(source, into)
    root = source.site.root
    found = places(source)
    if source.record.driver == "secrets":
        found += _staged_key(source, into, staged)
    for place in found:
        pair = Pair.of(into / place, root / place)
        staged.pairs += [pair, *(Pair.carrying(pair, name) for name in unsaved(source.site, source.name, root / place))]
    return staged


def places(source: Source) -> list[Path]:
    """Return the files and folders that a component exchanges, relative to stack.yaml, without the age key."""
    if source.record.driver in ("volume", "influxdb", "command"):
        return []
    if source.record.driver == "archive":
        return [Path(source.record.facts.get(Path(one.path).name, "")) for one in source.record.artifacts]
    if source.record.facts.get("whole"):
        return [Path(source.record.facts["folder"])]
    paths = [*(one.path for one in source.record.artifacts), *(one.path for one in source.record.links)]
    found = [place_of(source, path) for path in paths]
    return [place for place in found if source.record.driver != "secrets" or place != _KEY_PLACE]


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


def _copy(source: Source, artifact: Artifact, place: Path) -> None:
    place.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with source.file(artifact).open("rb") as content, os.fdopen(descriptor, "wb") as stream:
        while block := content.read(BLOCK):
            stream.write(block)
        os.fchmod(stream.fileno(), artifact.mode)
        if os.geteuid() == 0:
            owner = source.site.root.stat()
            os.fchown(stream.fileno(), owner.st_uid, owner.st_gid)
        stream.flush()
        os.fsync(stream.fileno())
        seen = os.fstat(content.fileno())
        os.utime(stream.fileno(), ns=(seen.st_mtime_ns, seen.st_mtime_ns))


def _inflate(archive: Path, place: Path) -> None:
    descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with inflated(archive) as content, os.fdopen(descriptor, "wb") as stream:
        while block := content.read(BLOCK):
            stream.write(block)


def opened_key(source: Source, sealed: Artifact) -> bytes | None:
    """Return the age key of a backup; None if it cannot be opened but is not needed, since there is one already.

    Raises:
        KeyUnusable: it cannot be opened, but is needed.
    """
    try:
        return sealing.open_sealed(source.file(sealed).read_bytes(), source.recovery)
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


def _stage_in_volumes(source: Source, wanted: Mapping[str, Swap], number: str) -> None:
    engine = source.site.engine(source.site.section.components[source.name])
    for file, swap in wanted.items():
        with volumes.mounted(engine, swap.volume, writable=True) as helper:
            volumes.put(engine, helper, volumes.MOUNTED, [_folder_alone(f".restore-{number}")])
            _fill(source, engine, helper, f"{volumes.MOUNTED}/.restore-{number}", file)


def fill_volume(source: Source, engine: Engine, volume: str) -> None:
    """Unpack a volume component into another, empty volume."""
    with volumes.mounted(engine, volume, writable=True) as helper:
        _fill(source, engine, helper, volumes.MOUNTED, f"{source.name}.tar.gz")


def _fill(source: Source, engine: Engine, helper: str, folder: str, file: str) -> None:
    for artifact in source.record.artifacts:
        if artifact.members and Path(artifact.path).name == file:
            volumes.put(engine, helper, folder, blocks(source.file(artifact)))
    if not any(artifact.members for artifact in source.record.artifacts):
        volumes.put(engine, helper, folder, _packed(source))


def _folder_alone(name: str) -> bytes:
    stream = BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as archive:
        info = tarfile.TarInfo(name)
        info.type, info.mode = tarfile.DIRTYPE, 0o700
        archive.addfile(info)
    return stream.getvalue()


def blocks(path: Path) -> Iterator[bytes]:
    """Yield the unpacked content of a gzip file."""
    with inflated(path) as content:
        while block := content.read(BLOCK):
            yield block


def _packed(source: Source) -> Iterator[bytes]:
    """Yield the plain files of a component as a tar stream, all with the same owner."""
    owner, _, group = source.record.facts.get("owner", "0:0").partition(":")
    made = int(source.folder.stat().st_mtime)  # backups keep no time of folders and links
    paths = [one.path for one in source.record.artifacts] + [one.path for one in source.record.links]
    for folder in sorted({parent for path in paths for parent in Path(path).relative_to(source.name).parents}):
        if folder != Path():
            info = tarfile.TarInfo(str(folder))
            info.type, info.mode, info.uid, info.gid = tarfile.DIRTYPE, 0o755, int(owner), int(group)
            info.mtime = made
            yield info.tobuf(tarfile.GNU_FORMAT)
    for artifact in source.record.artifacts:
        info = tarfile.TarInfo(str(Path(artifact.path).relative_to(source.name)))
        info.size, info.mode = artifact.size, artifact.mode
        info.mtime, info.uid, info.gid = int(source.file(artifact).stat().st_mtime), int(owner), int(group)
        yield info.tobuf(tarfile.GNU_FORMAT)
        with source.file(artifact).open("rb") as content:
            while block := content.read(BLOCK):
                yield block
        yield bytes(-info.size % tarfile.BLOCKSIZE)
    for link in source.record.links:
        info = tarfile.TarInfo(str(Path(link.path).relative_to(source.name)))
        info.type, info.linkname, info.uid, info.gid = tarfile.SYMTYPE, link.target, int(owner), int(group)
        info.mtime = made
        yield info.tobuf(tarfile.GNU_FORMAT)
    yield bytes(2 * tarfile.BLOCKSIZE)
