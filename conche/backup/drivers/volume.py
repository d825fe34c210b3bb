"""volume: a named volume or a folder of the engine's host, read through the engine."""

from __future__ import annotations

from collections.abc import Iterator

from conche.backup import holding, idle, scaling
from conche.backup.archive import ArchiveWriter, compressing
from conche.backup.copying import copied, packed
from conche.backup.drivers import Dumping
from conche.backup.entries import Entry, tar_entries
from conche.backup.folder import folder_writer
from conche.backup.manifest import ComponentRecord
from conche.backup.members import Members
from conche.backup.reading import Reading
from conche.backup.storing import Writer, store
from conche.backup.tree import FACT, FILE
from conche.engine import swarm_places, volumes
from conche.engine.packing import Helper, helping

__all__ = ["ASIDE", "dump", "read_into"]

ASIDE = (".restore-*", ".pre-restore-*")
"""What restores leave in a volume; never part of a backup."""


def dump(task: Dumping) -> ComponentRecord:
    """Dump the volume while the containers that use it are paused, stopped, or left running."""
    component, engine = task.component, task.site.engine(task.component)
    assert component.volume is not None
    assert component.environment is not None
    reading = Reading(exclude=(*ASIDE, *component.exclude), searched=False, top=True)
    environment = task.site.stack.environments[component.environment]
    if environment.swarm:
        swarm_places.require_here(engine, component.volume)
    if not volumes.exists(engine, component.volume):
        reading.leave_out(component.volume, "is not a volume of the engine", harmful=component.required)
        return task.record(reading=reading)
    if under_way := idle.wait(task.site, component, engine):
        reading.leave_out(component.volume, f"was not read: {under_way}", harmful=True)
        return task.record(reading=reading)
    # The helper is made after its note, for a kill, but before containers wait: it takes as long as a small volume.
    with (
        holding.noted(task.site, environment.engine, component.volume),
        helping(engine, component.volume) as helper,
        scaling.held(task.site, component, engine) as waited,
    ):
        if component.unpacked:
            with folder_writer(task.folder) as (folder, finish):
                read_into(folder, helper, component.volume, reading)
                artifacts, links = task.with_tree(folder.stored, finish())
        else:
            file = f"{task.name}.tar.gz"
            with compressing(task.folder / file) as compressor:
                writer = ArchiveWriter(compressor)
                read_into(writer, helper, component.volume, reading)
                made = task.artifact(file, writer.finish())
    for ill in waited.ill:
        task.site.say(f"warning: after the backup of {task.name}, {ill}")
    if component.unpacked:
        words, facts = waited.words, {FACT: FILE}
        return task.record(artifacts=artifacts, links=links, reading=reading, consistency=words, facts=facts)
    return task.record(artifacts=(made,), reading=reading, consistency=waited.words)


def read_into(writer: Writer, helper: Helper, volume: str, reading: Reading) -> None:
    """Write everything in a volume, with names relative to it."""
    prefix = "." if helper.packs else volumes.MOUNTED.strip("/")
    with packed(helper, volume, reading) as members:
        store(tar_entries(members, prefix, reading), writer, reading)
    for name in reading.second_names:
        with copied(helper.engine, helper.id, f"{volumes.MOUNTED}/{name}") as members:
            store(_alone(members, name), writer, reading)


def _alone(members: Members, name: str) -> Iterator[Entry]:
    """Yield the entry of a file that was requested on its own, under its full name."""
    for entry in tar_entries(members, "", Reading()):
        entry.info.name = name
        yield entry
