"""archive, files and logs: folders and files of the checkout."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from tarfile import TarInfo

from conche.backup.archive import ArchiveWriter, NotTheGroup, compressing
from conche.backup.drivers import Dumping
from conche.backup.entries import Entry, local_entries
from conche.backup.folder import folder_writer
from conche.backup.manifest import Artifact, ComponentRecord
from conche.backup.matching import matching
from conche.backup.pieces import Pieces
from conche.backup.reading import Reading
from conche.backup.sight import Sight
from conche.backup.storing import store, store_one
from conche.backup.tree import FACT, FILE
from conche.backup.unchanged import Seen

__all__ = ["archive_name", "dump"]

DAY = 86_400.0
CONSISTENCY = "as read, file by file"


def dump(task: Dumping) -> ComponentRecord:
    """Dump the component's folders, one archive each, or its files, one file each."""
    component = task.component
    reading = Reading(
        exclude=(*task.site.never(), *component.exclude),
        grows=component.driver == "logs",
        inside=component.driver == "archive",
    )
    if component.driver == "archive":
        made = {path: one for path in component.paths if (one := _archive(task, path.rstrip("/"), reading))}
        facts = {Path(one.path).name: path for path, one in made.items()}
        return task.record(artifacts=tuple(made.values()), reading=reading, consistency=CONSISTENCY, facts=facts)
    base = _base(task)
    names = _uppermost(task.site.root, {n for pattern in component.paths for n in _matching(task, pattern, reading)})
    if task.earlier and task.earlier.record.facts.get("folder") == base:  # they have the same names there
        reading.sight.known = task.earlier.files
    with folder_writer(task.folder, _taken(task)) as (writer, finish):
        for name in names:
            store(_below(base, local_entries(task.site.root, name, reading)), writer, reading)
        artifacts, links = task.with_tree(writer.stored, finish())
    task.files.update(reading.sight.files)
    whole = base and all(path.rstrip("/") == base for path in component.paths)
    facts = {"folder": base, FACT: FILE} | ({"whole": "yes"} if whole else {})
    return task.record(artifacts=artifacts, links=links, reading=reading, consistency=CONSISTENCY, facts=facts)


def archive_name(path: str, paths: tuple[str, ...]) -> str:
    """Return an archive's name: src.tar.gz for `src`, claude.tar.gz for `.claude`, the whole path for equal names."""
    alike = [one for one in paths if Path(one).name.lstrip(".") == Path(path).name.lstrip(".")]
    name = Path(path).name if len(alike) == 1 else "-".join(Path(path).parts)
    return f"{name.lstrip('.')}.tar.gz"


def _uppermost(root: Path, names: Collection[str]) -> list[str]:
    """Return the names, sorted, without those that a folder among them stands for."""
    return sorted(name for name in names if not _is_below(root, name, names))


def _is_below(root: Path, name: str, names: Collection[str]) -> bool:
    """Return whether a path is read with a folder above it; links to folders are not followed."""
    for above in map(str, PurePosixPath(name).parents):
        if above != "." and (root / above).is_symlink():
            return False
        if above in names and above != name:
            return True
    return False


def _base(task: Dumping) -> str:
    """Return the folder that contains all of the component's paths; files are stored under their names below it."""
    folders = []
    for pattern in task.component.paths:
        parts = Path(pattern).parts
        fixed = next((place for place, part in enumerate(parts) if set(part) & set("*?[")), None)
        if fixed is None:
            fixed = len(parts) if os.path.isdir(task.site.root / pattern) else len(parts) - 1  # noqa: PTH112
        folders.append("/".join(parts[:fixed]))
    return os.path.commonpath(folders) if all(folders) else ""


def _below(base: str, entries: Iterator[Entry]) -> Iterator[Entry]:
    for entry in entries:
        entry.info.name = _shortened(entry.info.name, base)
        if entry.read is None:
            yield entry
            continue
        yield Entry(entry.info, _renamed(entry, base))


def _shortened(name: str, base: str) -> str:
    return name.removeprefix(base).lstrip("/") or "."


def _renamed(entry: Entry, base: str) -> Callable[[], tuple[TarInfo, Iterator[bytes]]]:
    assert entry.read is not None
    read = entry.read

    def renamed() -> tuple[TarInfo, Iterator[bytes]]:
        info, blocks = read()
        info.name = _shortened(info.name, base)
        if info.islnk():
            info.linkname = _shortened(info.linkname, base)
        return info, blocks

    return renamed


def _archive(task: Dumping, path: str, reading: Reading) -> Artifact | None:
    try:
        there = (task.site.root / path).is_dir()
    except OSError as error:  # of a folder above it
        reading.leave_out(path, f"cannot be read: {error.strerror}", harmful=True)
        return None
    if not there:
        _absent(task, path, reading)
        return None
    file = archive_name(path, task.component.paths)
    if task.earlier and (unchanged := _unchanged(task, path, file, reading)):
        return unchanged
    left = len(reading.left_out)
    if task.earlier:
        with task.earlier.pieces(f"{task.name}/{file}") as pieces:
            if pieces and (made := _written(task, path, file, reading, pieces)):
                return made
        (task.folder / file).unlink(missing_ok=True)
        del reading.left_out[left:]
    return _written(task, path, file, reading)


def _written(task: Dumping, path: str, file: str, reading: Reading, pieces: Pieces | None = None) -> Artifact | None:
    """Write an archive, some of it from an earlier one; None if that is not what its manifest says."""
    with compressing(task.folder / file) as compressor:
        writer = ArchiveWriter(compressor)
        reading.first_names.clear()  # a hard link leads to a file of its own archive
        reading.sight.begin()
        entries = local_entries(task.site.root, path, reading)
        try:
            for entry in pieces.over(entries) if pieces else entries:
                if isinstance(entry, Entry):
                    writer.saw(store_one(entry, writer, reading))
                else:
                    writer.put(entry.group, entry.pieces)
                    for seen in entry.group.seen:
                        reading.sight.saw("", seen)
            good = not pieces or pieces.proven()
        except NotTheGroup:
            good = False
        if pieces and not good:
            task.site.say(f"{pieces.file.path} is damaged; run: invoke backup.verify --all")
            return None
        task.archives[file] = Seen(reading.sight.whole, tuple(reading.sight.said), tuple(writer.groups))
        return task.artifact(file, writer.finish())


def _unchanged(task: Dumping, path: str, file: str, reading: Reading) -> Artifact | None:
    """Take an archive over from the earlier backup, if nothing of what is in it has changed since."""
    assert task.earlier is not None
    before = task.earlier.archives.get(file)
    if before is None or not before.whole:
        return None
    sight = Sight(only_looking=True)
    looking = replace(reading, left_out=[], first_names={}, sight=sight, _once=set())
    for entry in local_entries(task.site.root, path, looking):
        if entry.look is not None:
            try:
                seen = entry.look()
            except OSError:  # gone since the folder was listed
                return None
            sight.saw(entry.info.name, sight.judged(entry.info.name, seen, ""))
        else:
            sight.saw(entry.info.name, entry.seen)
    same = sight.whole == before.whole
    taken = task.earlier.take(f"{task.name}/{file}", task.folder / file) if same else None
    if taken is not None:
        reading.left_out += looking.left_out
        for name, why in before.said:
            reading.leave_out(name, why)
        task.archives[file] = before
    return taken


def _taken(task: Dumping) -> Callable[[str, Path], Artifact | None] | None:
    """Return what takes a file over from the earlier backup, by its name there."""
    if task.earlier is None:
        return None
    earlier = task.earlier
    return lambda name, place: earlier.take(f"{task.name}/{name}", place)


def _matching(task: Dumping, pattern: str, reading: Reading) -> Iterator[str]:
    """Yield the paths that a pattern matches; a folder stands for everything below it."""
    root, found = task.site.root, False
    oldest = time.time() - task.component.days * DAY if task.component.driver == "logs" else 0.0
    unread = len(reading.left_out)
    for name in matching(root, pattern, reading):
        try:
            if (root / name).lstat().st_mtime < oldest:
                continue
        except FileNotFoundError:  # gone since the folder was listed, such as a log that was rotated
            continue
        except OSError as error:
            reading.leave_out(name, f"cannot be read: {error.strerror}", harmful=True)
            continue
        found = True
        yield name
    found = found or len(reading.left_out) > unread
    if not found and task.component.driver == "files" and not any(sign in pattern for sign in "*?["):
        _absent(task, pattern, reading)


def _absent(task: Dumping, path: str, reading: Reading) -> None:
    needed = task.component.required and path not in task.component.optional
    reading.leave_out(path, "is not there", harmful=needed)
