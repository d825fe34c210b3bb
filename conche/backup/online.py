"""Restores data that only a running program can load; a dump made just before can reverse it, even after a kill."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from conche.backup import running, users, within
from conche.backup.drivers import Dumping, by_programs, influxdb, program
from conche.backup.drivers.programs import stopping
from conche.backup.exchange import Journal
from conche.backup.filling import put_archive
from conche.backup.influx import CONFIG, Influx
from conche.backup.proof import Proof, ask, check_of, judged, judged_before, require_same
from conche.backup.site import Site
from conche.backup.source import Source
from conche.backup.strict import Limits, walk
from conche.backup.users import User
from conche.backup.within import File
from conche.errors import CheckFailed, ConcheError, NotFound, Refused, Unreachable
from conche.stack import Component

__all__ = [
    "Given",
    "dump_before",
    "is_online",
    "put_back",
    "put_dump",
    "require_loadable",
    "require_replacing",
    "restore",
    "take_back",
    "writers",
]


def is_online(source: Source) -> bool:
    """Return whether a component is restored through the program that serves it, while that runs."""
    return by_programs(source.record.driver) or source.record.facts.get("form") == "online"


def require_replacing(sources: Sequence[Source]) -> None:
    """Refuse if the programs that stack.yaml names cannot replace what is there by a dump.

    Raises:
        NotFound: stack.yaml no longer says how a component is restored.
        Refused: the restore would fail, or add to what is there.
    """
    for source in filter(is_online, sources):
        component = _declared(source.site, source.name)
        if problems := program.problems(component):
            raise _cannot_replace(source, problems)


def require_loadable(sources: Sequence[Source]) -> None:
    """Refuse if a dump itself, or the server that is there, shows that it cannot be loaded over what is there.

    Raises:
        Refused: the dump is incomplete, would add to what is there, or is of a later version than the server.
        NotFound: a service does not run.
    """
    for source in filter(is_online, sources):
        component = _declared(source.site, source.name)
        if not by_programs(component.driver):
            continue
        program.require_same_server(source, component)
        if problems := program.problems_of(source, component):
            raise _cannot_replace(source, problems)


def _cannot_replace(source: Source, problems: Sequence[str]) -> Refused:
    return Refused(
        "dump-cannot-replace",
        f"The dump of {source.name} cannot replace the current data; nothing was touched.",
        evidence=problems,
        next_command="correct `dump` and `restore` in stack.yaml, then: invoke backup.create daily\n"
        f"invoke backup.restore {source.folder.name} --component {source.name} --target FOLDER"
        "    # the dump as a file, to load by hand",
    )


def writers(site: Site, names: Iterable[str]) -> dict[str, User]:
    """Return the running containers of services that have to stop while a running program loads its data."""
    found: dict[str, User] = {}
    for name in names:
        component = site.section.components.get(name)
        if component is not None and component.environment is not None:
            found |= users.of_services(site, component.environment, stopping(component))
    return found


@dataclass
class Given:
    """The result of giving running programs the data of a backup.

    Attributes:
        shut_out: what to say and to type if a database now refuses the token that its users have.
        said: what the programs warned of.
        unkept: components whose writers did not stop, with the moments between which everything written is lost.
    """

    proofs: list[Proof] = field(default_factory=list)
    shut_out: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    unkept: dict[str, tuple[datetime, datetime]] = field(default_factory=dict)

    @property
    def unproven(self) -> list[Proof]:
        """The components that may be something else than they should be."""
        return [one for one in self.proofs if not one.proven]

    @property
    def exit_code(self) -> int:
        return 3 if self.unproven or self.shut_out else 0

    @property
    def lines(self) -> list[str]:
        """Lines about what was loaded."""
        by_hand = "Check it by hand, and give it a `check` for next time: conche docs backup"
        return [*map(str, self.proofs), *self.shut_out, *([by_hand] if self.unproven else [])]

    def as_json(self) -> dict[str, object]:
        """Return the fields of the answer."""
        return {
            "proofs": [one.as_json() for one in self.proofs],
            "unkept": [
                {"component": name, "since": since.isoformat(), "until": until.isoformat()}
                for name, (since, until) in self.unkept.items()
            ],
            "shut_out": self.shut_out,
        }

    @property
    def warnings(self) -> list[str]:
        """What the programs warned of, and what data may be missed."""
        return self.said + [
            f"{name}: data written between {since:%H:%M:%S} and {until:%H:%M:%S} UTC are neither in the"
            " restored data nor in the copy put aside; list what writes to it under its `services` in stack.yaml"
            for name, (since, until) in self.unkept.items()
        ]


def dump_before(
    site: Site, names: Sequence[str], journal: Journal, blindly: Callable[[str], str] | None
) -> dict[str, datetime]:
    """Dump what is there now into the staging folder, as the way back, and check that it can be loaded again.

    Args:
        blindly: returns the command that goes on without a way back; None to go on if a component cannot be dumped.

    Returns:
        For each component, since when what is written to it is no longer in its dump.
    """
    since = {}
    for name in names:
        since[name] = datetime.now(UTC)
        component = _declared(site, name)
        if check_of(component):
            try:
                journal.answers[name] = ask(site, name, component)
            except ConcheError as error:
                site.say(f"warning: before the restore, {error.message}")
        folder = journal.staging(site.own) / name
        try:
            _dump_before(site, name, folder)
        except (NotFound, Unreachable):  # in that case nothing can be loaded either
            raise
        except ConcheError as error:
            if blindly is not None:
                raise _no_way_back(name, blindly(name), error) from error
            shutil.rmtree(folder, ignore_errors=True)
            journal.blind.append(name)
            site.say(f"warning: the restore of {name} cannot be undone: {error.message}")
    return since


def restore(site: Site, sources: Sequence[Source], journal: Journal, since: Mapping[str, datetime]) -> Given:
    """Have the programs load their data, journalling each one first, and compare what their checks answer then.

    Args:
        since: when the dumps that are the way back were begun.

    Raises:
        CheckFailed: a component does not hold what was backed up.
    """
    given = Given()
    for source in sources:
        with _copied(source, journal.staging(site.own)) as files:
            now = _load(site, journal, source.name, files, since, given)
        if now is not None or by_programs(_declared(site, source.name).driver):
            given.proofs.append(judged(source.name, source.record, journal.answers.get(source.name), now))
    return given


def put_back(site: Site, old: Journal, names: Sequence[str], journal: Journal, since: Mapping[str, datetime]) -> Given:
    """Have the programs load what they held before a restore, and compare what their checks answer then.

    Raises:
        CheckFailed: a component whose writers stood still does not hold what it held before the restore.
    """
    given = Given()
    for name in names:
        files = {path.name: path for path in (old.aside(site.own) / name).iterdir()}
        now, component = _load(site, journal, name, files, since, given), _declared(site, name)
        if now is not None or by_programs(component.driver):
            given.proofs.append(judged_before(name, old.answers.get(name), now, alone=bool(stopping(component))))
    return given


def _load(
    site: Site,
    journal: Journal,
    name: str,
    files: Mapping[str, Path],
    since: Mapping[str, datetime],
    given: Given,
) -> str | None:
    """Have one program load a dump, journalled first; return what its check answers then, if it has one."""
    component = _declared(site, name)
    journal.fed.append(name)
    journal.write(site.own)
    site.say(f"restoring {name}")
    _give(site, name, files, given)
    if not stopping(component):
        given.unkept[name] = (since[name], datetime.now(UTC))
    return ask(site, name, component) if check_of(component) else None


@contextmanager
def _copied(source: Source, staging: Path) -> Iterator[dict[str, Path]]:
    """Provide copies of a component's files, by name: a program that is fed cannot give back what turns out wrong."""
    folder = staging / f"{source.name}.given"
    folder.mkdir(mode=0o700, parents=True)
    try:
        files = {}
        for artifact in source.record.artifacts:
            place = folder / Path(artifact.path).name
            with source.opened(artifact) as file, place.open("xb") as stream:
                for block in file.blocks(artifact.size):
                    stream.write(block)
            if source.is_archive(artifact):
                with within.opened(folder, place.name) as copy:
                    walk(copy, source.limits(artifact))
            files[place.name] = place
        yield files
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def take_back(site: Site, journal: Journal) -> None:
    """Give the programs that a restore has begun to feed their old data back; can be repeated.

    Raises:
        CheckFailed: a check answers differently from before the restore.
    """
    for name in reversed(journal.fed):
        if name in journal.blind:
            continue
        site.say(f"restoring the old data of {name}")
        before, component = journal.answers.get(name), _declared(site, name)
        try:
            before_it = {path.name: path for path in (journal.staging(site.own) / name).iterdir()}
            _give(site, name, before_it)
        except ConcheError:
            # A load in one transaction fails as a whole, and then everything is as it was.
            if before is None or ask(site, name, component) != before:
                raise
        if before is not None:
            require_same(name, before, ask(site, name, component))


def _declared(site: Site, name: str) -> Component:
    component = site.section.components.get(name)
    if component is None:
        raise NotFound(
            "no-such-component",
            f"stack.yaml no longer has the component {name}, so how to restore it is not known.",
            next_command="put it back into stack.yaml, then try again",
        )
    return component


def _no_way_back(name: str, blindly: str, error: ConcheError) -> Refused:
    return Refused(
        "no-way-back",
        f"The current data of {name} cannot be dumped, so a restore could not be undone: {error.message}",
        evidence=error.evidence,
        next_command=f"{blindly}    # if the current data may be lost",
    )


def _dump_before(site: Site, name: str, folder: Path) -> None:
    """Dump what a component's program holds now.

    Raises:
        CheckFailed: the dump itself shows that it is not whole.
    """
    component = _declared(site, name)
    folder.mkdir(mode=0o700, parents=True)
    if component.driver == "influxdb":
        influxdb.opened(site, component)
        # Buckets may well be empty before a restore.
        record = influxdb.dump(Dumping(site, name, component.model_copy(update={"buckets": ()}), folder))
        if record.harm:
            raise CheckFailed("dump-cannot-replace", f"{record.harm[0]}.", evidence=record.harm[1:])
        return
    program.save(site, component, folder)


def _give(site: Site, name: str, dump: Mapping[str, Path], given: Given | None = None) -> None:
    """Have the program load a dump, given as files by name; an InfluxDB is replaced including its tokens and users.

    Args:
        given: takes what to show to the user afterwards; None if the dump is what the program held before.
    """
    component = _declared(site, name)
    if component.driver == "influxdb":
        said = _give_influx(site, component, dump, again=given is None)
        if given is not None:
            given.shut_out += said
        return
    [file] = dump.values()
    said = program.load(site, name, component, file)
    if given is not None:
        given.said += said


def _give_influx(site: Site, component: Component, dump: Mapping[str, Path], *, again: bool) -> list[str]:
    """Replace data and configuration; at every moment the token in the file or in the configuration is valid."""
    with (
        _opened(dump[influxdb.DATA_FILE]) as file,
        put_dump(site, component, file, Limits(links_out=True)) as (influx, folder),
    ):
        first = not again and influx.token() == "valid"
        if first:
            _put_configuration(influx, dump)
        influx.restore_all(folder)
        if not first:
            _put_configuration(influx, dump)
        if influx.token() != "refused":
            return []
    said = f"{influx.container.name} now has the tokens of the backup and rejects the one in {influx.token_file}"
    valid = f"Clients with that token are locked out. The valid one is in {CONFIG}/influx-configs of the container:"
    return [f"{said}.", valid, *influx.way_out(str(component.environment))]


def _put_configuration(influx: Influx, dump: Mapping[str, Path]) -> None:
    if influxdb.CONFIG_FILE in dump:
        with _opened(dump[influxdb.CONFIG_FILE]) as file:
            put_archive(influx.engine, influx.container.id, CONFIG, file, Limits(links_out=True))


def _opened(file: Path) -> File:
    """Open a file of a restore's own."""
    return within.opened(file.parent, file.name)


@contextmanager
def put_dump(site: Site, component: Component, dump: File, limits: Limits) -> Iterator[tuple[Influx, str]]:
    """Provide the database, and a dump in a folder of its container that is removed afterwards."""
    influx, folder = influxdb.opened(site, component), influxdb.scratch()
    with running.noted(site, component, influx.container, folder=folder) as program:
        influx = replace(influx, number=program.number)
        influx.make(folder, dump.seen.st_size)
        put_archive(influx.engine, influx.container.id, folder, dump, limits)
        yield influx, folder
    influxdb.warn_refused(site, influx)
