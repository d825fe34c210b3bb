"""Restoring what only a running program can take: a dump of the state before is the way back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from conche.backup.archive import compressing
from conche.backup.drivers.command import serving
from conche.backup.extract import BLOCK, inflated
from conche.backup.site import Site
from conche.backup.staging import Source
from conche.engine import containers
from conche.process import run, signals_deferred

__all__ = ["DRIVERS", "prepared"]

DRIVERS = ("command",)


@contextmanager
def prepared(site: Site, sources: Sequence[Source], staging: Path) -> Iterator[Callable[[], None]]:
    """Dump what is there now; inside, call what is yielded to restore. What fails is fed the old dump again."""
    before = [(source, _dumped(site, source, staging)) for source in sources]
    begun: list[tuple[Source, Path]] = []

    def restoring() -> None:
        for source, old in before:
            begun.append((source, old))
            site.say(f"restoring {source.name}")
            _feed(site, source, source.file(source.record.artifacts[0]))

    try:
        yield restoring
    except BaseException:
        with signals_deferred():
            for source, old in reversed(begun):
                site.say(f"feeding {source.name} its old data again")
                _feed(site, source, old)
        raise


def _dumped(site: Site, source: Source, staging: Path) -> Path:
    component = site.section.components[source.name]
    folder = staging / source.name
    folder.mkdir(mode=0o700, parents=True)
    file = folder / "before.gz"
    with compressing(file) as compressor:
        for block in containers.output(site.engine(component), serving(site, component).id, component.dump):
            compressor.write(block)
        compressor.finish()
    return file


def _feed(site: Site, source: Source, dump: Path) -> None:
    component = site.section.components[source.name]
    engine, container = site.engine(component), serving(site, component)
    argv = ["docker", "exec", "--interactive", container.id, *component.restore]
    run(argv, stdin=_content(dump), extra_env=engine.cli_environment()).require(f"restoring {source.name}")


def _content(dump: Path) -> Iterator[bytes]:
    with inflated(dump) as stream:
        while block := stream.read(BLOCK):
            yield block
