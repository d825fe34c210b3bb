"""Restoring what only a running program can take: a dump of the state before is the way back, after a kill too."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from conche.backup import users
from conche.backup.archive import compressing
from conche.backup.drivers import Dumping, influxdb
from conche.backup.drivers.command import serving
from conche.backup.exchange import Journal
from conche.backup.influx import CONFIG, Influx
from conche.backup.loading import Examined, complaints
from conche.backup.proof import Proof, ask, judged, require_same
from conche.backup.site import Site
from conche.backup.staging import Source, blocks
from conche.backup.users import User
from conche.engine import containers, volumes
from conche.errors import CheckFailed, ConcheError, NotFound, Refused, Unreachable
from conche.process import run
from conche.stack import Component

__all__ = [
    "dump_before",
    "is_online",
    "put_dump",
    "require_loadable",
    "require_replacing",
    "restore",
    "take_back",
    "writers",
]


def is_online(source: Source) -> bool:
    """Whether a component is restored by the program that serves it, while that runs."""
    return source.record.driver == "command" or source.record.facts.get("form") == "online"


def require_replacing(sources: Sequence[Source]) -> None:
    """Refuse where the programs that stack.yaml names cannot put a dump in the place of what is there.

    Raises:
        NotFound: stack.yaml does not say any more how a component is restored.
        Refused: it would fail, or be added to what is there.
    """
    for source in filter(is_online, sources):
        component = _declared(source.site, source.name)
        if problems := complaints(component.dump, component.restore):
            raise _cannot_replace(source, problems)


def require_loadable(sources: Sequence[Source]) -> None:
    """Refuse where a dump itself says that it cannot be loaded over what is there.

    Raises:
        Refused: it is not whole, or would be added to what is there.
    """
    for source in filter(is_online, sources):
        component = _declared(source.site, source.name)
        if component.driver != "command":
            continue
        if problem := _examined(map(source.file, source.record.artifacts)).problem(component.restore):
            raise _cannot_replace(source, [problem])


def _cannot_replace(source: Source, problems: Sequence[str]) -> Refused:
    return Refused(
        "dump-cannot-replace",
        f"The dump of {source.name} cannot take the place of what is there; nothing was touched.",
        evidence=problems,
        next_command="correct `dump` and `restore` in stack.yaml, then: invoke backup.create daily\n"
        f"invoke backup.restore {source.folder.name} --component {source.name} --target FOLDER"
        "    # the dump as a file, to be loaded by hand",
    )


def writers(site: Site, names: Iterable[str]) -> dict[str, User]:
    """The running containers of services that stop while a running program takes its data."""
    found: dict[str, User] = {}
    for name in names:
        component = site.section.components.get(name)
        if component is not None and component.environment is not None:
            found |= users.of_services(site, component.environment, component.services)
    return found


def dump_before(site: Site, sources: Sequence[Source], journal: Journal, *, blind: bool) -> None:
    """Dump what is there now, into the staging folder, and see that this can be loaded again: it is the way back.

    Args:
        blind: go on without a way back where what is there cannot be dumped.
    """
    for source in sources:
        component = _declared(site, source.name)
        if component.check:
            try:
                journal.answers[source.name] = ask(site, source.name, component)
            except ConcheError as error:
                site.say(f"warning: before the restore, {error.message}")
        folder = journal.staging(site.own) / source.name
        try:
            _dump_before(site, source, folder)
        except (NotFound, Unreachable):  # then nothing can be loaded either
            raise
        except ConcheError as error:
            if not blind:
                raise _no_way_back(source, error) from error
            shutil.rmtree(folder, ignore_errors=True)
            journal.blind.append(source.name)
            site.say(f"warning: {source.name} has no way back: {error.message}")


def restore(site: Site, sources: Sequence[Source], journal: Journal) -> list[Proof]:
    """Let the programs take their data, each written down first, and see what they answer then.

    Raises:
        CheckFailed: one holds something else than was backed up.
    """
    proofs = []
    for source in sources:
        journal.fed.append(source.name)
        journal.write(site.own)
        site.say(f"restoring {source.name}")
        _give(site, source.name, {Path(one.path).name: source.file(one) for one in source.record.artifacts})
        component = _declared(site, source.name)
        now = ask(site, source.name, component) if component.check else None
        if now is not None or component.driver == "command":
            proofs.append(judged(source.name, source.record, journal.answers.get(source.name), now))
    return proofs


def take_back(site: Site, journal: Journal) -> None:
    """Give the programs that a restore has begun to feed what they held before; can be done again.

    Raises:
        CheckFailed: one answers otherwise than before the restore.
    """
    for name in reversed(journal.fed):
        if name in journal.blind:
            continue
        site.say(f"giving {name} its old data again")
        before, component = journal.answers.get(name), _declared(site, name)
        try:
            _give(site, name, {path.name: path for path in (journal.staging(site.own) / name).iterdir()})
        except ConcheError:
            # What is loaded in one transaction fails as a whole: then everything is as it was.
            if before is None or ask(site, name, component) != before:
                raise
        if before is not None:
            require_same(name, before, ask(site, name, component))


def _declared(site: Site, name: str) -> Component:
    component = site.section.components.get(name)
    if component is None:
        raise NotFound(
            "no-such-component",
            f"stack.yaml has no component {name} any more, and says nothing of how it is restored.",
            next_command="put it back into stack.yaml, then again",
        )
    return component


def _no_way_back(source: Source, error: ConcheError) -> Refused:
    return Refused(
        "no-way-back",
        f"What {source.name} holds now cannot be dumped, so a restore could not be taken back: {error.message}",
        evidence=error.evidence,
        next_command=f"invoke backup.restore {source.folder.name} --component {source.name} --no-way-back"
        "    # if what is there may be lost",
    )


def _dump_before(site: Site, source: Source, folder: Path) -> None:
    component = _declared(site, source.name)
    folder.mkdir(mode=0o700, parents=True)
    if component.driver == "influxdb":
        influxdb.opened(site, component)
        influxdb.dump(Dumping(site, source.name, component, folder))
        return
    with compressing(folder / "before.gz") as compressor:
        for block in containers.output(site.engine(component), serving(site, component).id, component.dump):
            compressor.write(block)
        compressor.finish()
    if problem := _examined([folder / "before.gz"]).problem(component.restore):
        raise CheckFailed("dump-cannot-replace", f"{problem}.")


def _examined(files: Iterable[Path]) -> Examined:
    """A dump, read to its end."""
    found = Examined()
    for file in files:
        for block in blocks(file):
            found.feed(block)
    return found


def _give(site: Site, name: str, dump: Mapping[str, Path]) -> None:
    """Let the program take a dump, by the names of its files: an InfluxDB is replaced with its tokens and users."""
    component = _declared(site, name)
    if component.driver != "influxdb":
        engine, container = site.engine(component), serving(site, component)
        argv = ["docker", "exec", "--interactive", container.id, *component.restore]
        [file] = dump.values()
        # A program that says a line for each row it takes is not kept word for word.
        done = run(argv, stdin=blocks(file), extra_env=engine.cli_environment(), on_line=lambda _: None)
        done.require(f"restoring {name}")
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
