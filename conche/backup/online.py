"""Restoring what only a running program can take: a dump of the state before is the way back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from conche.backup.archive import compressing
from conche.backup.drivers import Dumping, influxdb
from conche.backup.drivers.command import serving
from conche.backup.influx import CONFIG, Influx
from conche.backup.site import Site
from conche.backup.staging import Source, blocks
from conche.engine import containers, volumes
from conche.process import run, signals_deferred

__all__ = ["is_online", "prepared", "put_dump"]


class Way(Protocol):
    """How one component is restored and taken back."""

    def restore(self) -> None: ...

    def back(self) -> None: ...


def is_online(source: Source) -> bool:
    """Whether a component is restored by the program that serves it, while that runs."""
    return source.record.driver == "command" or source.record.facts.get("form") == "online"


@contextmanager
def prepared(site: Site, sources: Sequence[Source], staging: Path) -> Iterator[Callable[[], None]]:
    """Dump what is there now; inside, call what is yielded to restore. What fails is fed the old dump again."""
    ways: list[tuple[Source, Way]] = [(source, _prepared(site, source, staging)) for source in sources]
    begun: list[tuple[Source, Way]] = []

    def restoring() -> None:
        for source, way in ways:
            begun.append((source, way))
            site.say(f"restoring {source.name}")
            way.restore()

    try:
        yield restoring
    except BaseException:
        with signals_deferred():
            for source, way in reversed(begun):
                site.say(f"giving {source.name} its old data again")
                way.back()
        raise


def _prepared(site: Site, source: Source, staging: Path) -> Way:
    folder = staging / source.name
    folder.mkdir(mode=0o700, parents=True)
    if source.record.driver == "influxdb":
        return _Database(site, source, _dumped_database(site, source, folder))
    return _Program(site, source, _dumped(site, source, folder))


@dataclass(frozen=True)
class _Program:
    """A program that reads a dump from stdin."""

    site: Site
    source: Source
    before: Path

    def restore(self) -> None:
        self._feed(self.source.file(self.source.record.artifacts[0]))

    def back(self) -> None:
        self._feed(self.before)

    def _feed(self, dump: Path) -> None:
        component = self.site.section.components[self.source.name]
        engine, container = self.site.engine(component), serving(self.site, component)
        argv = ["docker", "exec", "--interactive", container.id, *component.restore]
        done = run(argv, stdin=blocks(dump), extra_env=engine.cli_environment())
        done.require(f"restoring {self.source.name}")


@dataclass(frozen=True)
class _Database:
    """An InfluxDB that is replaced as a whole: its data, and its tokens and users too."""

    site: Site
    source: Source
    before: dict[str, Path]

    def restore(self) -> None:
        files = {Path(one.path).name: self.source.file(one) for one in self.source.record.artifacts}
        self._take(files)

    def back(self) -> None:
        self._take(self.before)

    def _take(self, files: dict[str, Path]) -> None:
        component = self.site.section.components[self.source.name]
        influx = influxdb.opened(self.site, component)
        with put_dump(influx, files[influxdb.DATA_FILE]) as folder:
            influx.restore_all(folder)
        if influxdb.CONFIG_FILE in files:
            volumes.put(influx.engine, influx.container.id, CONFIG, blocks(files[influxdb.CONFIG_FILE]))


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


def _dumped(site: Site, source: Source, folder: Path) -> Path:
    component = site.section.components[source.name]
    file = folder / "before.gz"
    with compressing(file) as compressor:
        for block in containers.output(site.engine(component), serving(site, component).id, component.dump):
            compressor.write(block)
        compressor.finish()
    return file


def _dumped_database(site: Site, source: Source, folder: Path) -> dict[str, Path]:
    component = site.section.components[source.name]
    influxdb.opened(site, component)
    record = influxdb.dump(Dumping(site, source.name, component, folder))
    return {name: folder / name for one in record.artifacts if (name := Path(one.path).name)}
