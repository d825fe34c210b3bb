"""Restoring what only a running program can take: a dump of the state before is the way back, after a kill too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from conche.backup.archive import compressing
from conche.backup.drivers import Dumping, influxdb
from conche.backup.drivers.command import serving
from conche.backup.exchange import Journal
from conche.backup.influx import CONFIG, Influx
from conche.backup.site import Site
from conche.backup.staging import Source, blocks
from conche.engine import containers, volumes
from conche.errors import NotFound
from conche.process import run

__all__ = ["dump_before", "is_online", "put_dump", "restore", "take_back"]


def is_online(source: Source) -> bool:
    """Whether a component is restored by the program that serves it, while that runs."""
    return source.record.driver == "command" or source.record.facts.get("form") == "online"


def dump_before(site: Site, sources: Sequence[Source], journal: Journal) -> None:
    """Dump what is there now, into the staging folder."""
    for source in sources:
        _dump_before(site, source, journal.staging(site.own) / source.name)


def restore(site: Site, sources: Sequence[Source], journal: Journal) -> None:
    """Let the programs take their data; each is written down first."""
    for source in sources:
        journal.fed.append(source.name)
        journal.write(site.own)
        site.say(f"restoring {source.name}")
        _give(site, source.name, {Path(one.path).name: source.file(one) for one in source.record.artifacts})


def take_back(site: Site, journal: Journal) -> None:
    """Give the programs that a restore has begun to feed what they held before; can be done again."""
    for name in reversed(journal.fed):
        site.say(f"giving {name} its old data again")
        _give(site, name, {path.name: path for path in (journal.staging(site.own) / name).iterdir()})


def _dump_before(site: Site, source: Source, folder: Path) -> None:
    component = site.section.components[source.name]
    folder.mkdir(mode=0o700, parents=True)
    if component.driver == "influxdb":
        influxdb.opened(site, component)
        influxdb.dump(Dumping(site, source.name, component, folder))
        return
    with compressing(folder / "before.gz") as compressor:
        for block in containers.output(site.engine(component), serving(site, component).id, component.dump):
            compressor.write(block)
        compressor.finish()


def _give(site: Site, name: str, dump: Mapping[str, Path]) -> None:
    """Let the program take a dump, by the names of its files: an InfluxDB is replaced with its tokens and users."""
    component = site.section.components.get(name)
    if component is None:
        raise NotFound(
            "no-such-component",
            f"stack.yaml has no component {name} any more: a restore of it cannot be finished.",
            next_command="put it back into stack.yaml, then: invoke backup.verify",
        )
    if component.driver != "influxdb":
        engine, container = site.engine(component), serving(site, component)
        argv = ["docker", "exec", "--interactive", container.id, *component.restore]
        [file] = dump.values()
        run(argv, stdin=blocks(file), extra_env=engine.cli_environment()).require(f"restoring {name}")
        return
    influx = influxdb.opened(site, component)
    with put_dump(influx, dump[influxdb.DATA_FILE]) as folder:
        influx.restore_all(folder)
    if influxdb.CONFIG_FILE in dump:
        volumes.put(influx.engine, influx.container.id, CONFIG, blocks(dump[influxdb.CONFIG_FILE]))


@contextmanager
def put_dump(influx: Influx, archive: Path) -> Iterator[str]:
    """A dump in a folder of the database's container, gone afterwards; the folder."""
    folder = influxdb.scratch()
    influx.make(folder)
    try:
        volumes.put(influx.engine, influx.container.id, folder, blocks(archive))
        yield folder
    finally:
        influx.remove(folder)
