"""Components that programs in a container dump to stdout and load from stdin: `command`, and every database."""

from __future__ import annotations

import re
import uuid
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from conche.backup import holding, running, within
from conche.backup.archive import Archive, compressing
from conche.backup.drivers import Dumping
from conche.backup.drivers.influxdb import find
from conche.backup.drivers.programs import has_server, leaves_scratch, programs_of
from conche.backup.inflate import unpacked
from conche.backup.loading import Examined, complaints
from conche.backup.manifest import ComponentRecord
from conche.backup.reading import Reading
from conche.backup.redaction import redacting
from conche.backup.running import Program
from conche.backup.site import Site
from conche.backup.source import Source
from conche.engine import containers, copies, programs
from conche.engine.containers import Container
from conche.errors import CheckFailed, Refused
from conche.secret import Captured
from conche.services import running_container
from conche.stack import Component

__all__ = [
    "SERVER",
    "WARNINGS",
    "dump",
    "dump_name",
    "is_older",
    "last_lines",
    "load",
    "opened",
    "problems",
    "problems_of",
    "require_same_server",
    "save",
    "serving",
    "warnings_of",
]

SERVER, WARNINGS = "server", "warnings"
"""The keys of a component's facts for the server's name and version, and for what the dump's program warned of."""

PATIENCE = 60.0
"""Seconds that a server may take to tell its version."""

MOST_WARNINGS = 20
"""The last lines that are kept of what a program warned of."""

LONGEST = 500
"""Characters that are kept of such a line."""

MAJOR = {"PostgreSQL": 1, "MariaDB": 2, "MySQL": 2, "Redis": 2}
"""How many numbers of a version are the major one; of other servers every version reads the dumps of every other."""


_VERSION = re.compile(r"[A-Za-z]{1,20} [0-9][0-9A-Za-z.]{0,20}", re.ASCII)


def dump(task: Dumping) -> ComponentRecord:
    """Store what the program writes to stdout; its exit code must be 0."""
    component = task.component
    argvs, file = programs_of(component), dump_name(task.name, component)
    seen, said = Examined(), deque[bytes](maxlen=MOST_WARNINGS)
    with compressing(task.folder / file) as compressor:
        with opened(task.site, component) as place:
            redact = redacting(task.site, place.engine, place.container)
            server = _version(place, component)
            for block in programs.output(
                place.engine, place.container, argvs.dump, number=place.number, said=said, redact=redact
            ):
                compressor.write(block)
                seen.feed(block)
        compressed, digest, pieces = compressor.finish()
    reading = Reading()
    if seen.size == 0:
        reading.leave_out(file, "is empty: the program wrote nothing", harmful=True)
    for problem in problems(component) or [seen.problem(argvs.restore)]:
        if problem:
            reading.leave_out(file, f"cannot replace the current data: {problem}", harmful=True)
    heard = Captured(b"".join(said).decode(errors="replace"), redact)
    facts = {SERVER: server, WARNINGS: "\n".join(last_lines(str(heard)))}
    made = task.artifact(file, Archive(compressed, digest, 0, seen.size, pieces))
    return task.record(
        artifacts=(made,),
        reading=reading,
        consistency=f"as {server or argvs.dump[0]} dumps it",
        facts={name: text for name, text in facts.items() if text},
    )


def dump_name(name: str, component: Component) -> str:
    """Return the name of the dump's file."""
    return f"{component.file or name + '.dump'}.gz"


def warnings_of(records: Mapping[str, ComponentRecord]) -> list[str]:
    """Return what the programs that made the dumps warned of, for people."""
    return [
        f"{name}: its dump's program says: {line}"
        for name, record in records.items()
        for line in record.facts.get(WARNINGS, "").splitlines()
    ]


def save(site: Site, component: Component, folder: Path) -> None:
    """Dump what is there now, as the way back of a restore.

    Raises:
        CheckFailed: the dump itself shows that it cannot be loaded again.
    """
    argvs = programs_of(component)
    with compressing(folder / "before.gz") as compressor:
        with opened(site, component) as place:
            redact = redacting(site, place.engine, place.container)
            for block in programs.output(place.engine, place.container, argvs.save, number=place.number, redact=redact):
                compressor.write(block)
        compressor.finish()
    with within.opened(folder, "before.gz") as file:
        problem = _examined(unpacked(file)).problem(argvs.restore)
    if problem:
        raise CheckFailed("dump-cannot-replace", f"{problem}.")


def load(site: Site, name: str, component: Component, dump: Path) -> list[str]:
    """Have the program load a dump; return what it warned of."""
    with opened(site, component) as place, within.opened(dump.parent, dump.name) as file:
        done = programs.run(
            place.engine,
            place.container,
            programs_of(component).restore,
            number=place.number,
            stdin=unpacked(file),
            on_line=lambda _: None,  # with a listener only the end is kept: a program may print a line for each row
            redact=redacting(site, place.engine, place.container),
        )
    done.require(f"restoring {name}")
    return [f"{name}: its restore's program says: {line}" for line in last_lines(str(done.stderr))]


def last_lines(text: str) -> list[str]:
    """Return the end of what a program warned of, short enough to be kept."""
    return [line[:LONGEST] for line in text.strip().splitlines()[-MOST_WARNINGS:]]


def problems(component: Component) -> list[str]:
    """Return why the programs of a component cannot replace what is there by a dump; a database's own can."""
    return complaints(component.dump, component.restore) if component.driver == "command" else []


def problems_of(source: Source, component: Component) -> list[str]:
    """Return why a dump cannot be loaded over what is there, as the dump itself shows."""
    restore = programs_of(component).restore
    found = []
    for artifact in source.record.artifacts:
        with source.opened(artifact) as file:
            found.append(_examined(unpacked(file, artifact.content)).problem(restore))
    return [one for one in found if one]


def _examined(blocks: Iterable[bytes]) -> Examined:
    """Read a dump to its end, and return what it says about itself."""
    found = Examined()
    for block in blocks:
        found.feed(block)
    return found


def _version(place: Program, component: Component) -> str:
    """Return a server's name and version; empty if it is not known how to ask for it."""
    argv = programs_of(component).version
    if not argv:
        return ""
    done = programs.run(place.engine, place.container, argv, number=place.number, timeout=PATIENCE)
    return str(done.require(f"asking {place.name} for its version").stdout).strip()


def require_same_server(source: Source, component: Component) -> None:
    """Refuse a dump of a later major version than the server's, or of another server.

    Raises:
        Refused: it is.
        NotFound: the service does not run.
    """
    then = source.record.facts.get(SERVER, "")
    if not _VERSION.fullmatch(then):  # a backup by a `command`, or a word that nothing follows from
        return
    with opened(source.site, component) as place:
        now = _version(place, component)
    if is_older(now, then):
        raise Refused(
            "server-older",
            f"The backup of {source.name} was made by {then}, and {place.name} has {now}; nothing was touched.",
            next_command=f"use an image of {then} or later for the service {component.service}, and start it:"
            f"\ninvoke env.up --env {component.environment}",
        )


def is_older(now: str, then: str) -> bool:
    """Return whether a server cannot be expected to load what another one has dumped, by their names and versions."""
    name, wanted = _parsed(then)
    here, has = _parsed(now)
    return here != name or has < wanted


def _parsed(text: str) -> tuple[str, tuple[int, ...]]:
    name, _, number = text.partition(" ")
    return name, tuple(int(one) for one in re.findall(r"\d+", number)[: MAJOR.get(name, 0)])


@contextmanager
def opened(site: Site, component: Component) -> Iterator[Program]:
    """Provide a container for a component's programs, and the number that they carry: what is left of them goes.

    Raises:
        NotFound: the service has no container, or does not run and has to.
    """
    if has_server(component):
        with running.noted(site, component, serving(site, component), scratch=leaves_scratch(component)) as program:
            yield program
        return
    assert component.environment is not None
    original, address = find(site, component), site.stack.environments[component.environment].engine
    helper = f"{site.stack.project(component.environment)}-drill-{uuid.uuid4().hex[:8]}"
    with holding.noted(site, address, helper):
        beside = copies.start_beside(site.engine(component), original, helper)
        try:
            yield Program(address, beside, f"a container beside {original.name}", programs.new_number())
        finally:
            containers.remove(site.engine(component), beside)


def serving(site: Site, component: Component) -> Container:
    """Return the running container of a component's service.

    Raises:
        NotFound: there is none.
        Refused: on a swarm, it runs on another node.
    """
    assert component.environment is not None
    return running_container(site.stack, component.environment, str(component.service), "a dump or a restore")
