"""Programs that backups and restores run inside containers: noted before they start, ended by the next command.

A program in a container outlives a command that is killed. Until it is ended, nothing is taken back and no other is
started beside it. What it has made there is removed too: a dump of a database contains its tokens.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from conche.backup import belief, notes
from conche.engine import containers, programs
from conche.engine.connection import Engine
from conche.errors import ConcheError, Unreachable
from conche.files import write_atomic
from conche.formats import RUNNING
from conche.process import signals_deferred
from conche.services import containers_of
from conche.stack import Component

if TYPE_CHECKING:
    from conche.backup.site import Site
    from conche.engine.containers import Container

__all__ = ["Program", "forget", "left", "noted", "recover", "require_ended", "require_understood", "unknown"]

NOTE = "running.json"

SCRATCH = "/tmp/conche-backup-"  # noqa: S108 - of a container
"""Begins the path of a folder that a program makes in a container."""

REMOVE = 'rm -rf "$1" "${TMPDIR:-/tmp}/${1##*/}"'
"""Removes it where the container's variables say that it is."""

PATIENCE = 600.0
"""Seconds allowed for that."""


@dataclass(frozen=True)
class Program:
    """A program that runs in a container for us.

    Attributes:
        address: the engine's address, as in stack.yaml.
        number: the number that its processes carry (conche.engine.programs).
        folder: a folder that it has made in the container, removed afterwards.
        bucket: a bucket of InfluxDB that it has made, removed afterwards.
        token_file: the file in the container with the token to do that.
    """

    address: str | None
    container: str
    name: str
    number: str
    folder: str = ""
    bucket: str = ""
    token_file: str = ""

    @property
    def engine(self) -> Engine:
        """The engine that it runs on."""
        return Engine(self.address)


@contextlib.contextmanager
def noted(
    site: Site,
    component: Component,
    container: Container,
    *,
    folder: str = "",
    bucket: str = "",
    scratch: bool = False,
) -> Iterator[Program]:
    """Note that a program may run in a container during this block, and remove afterwards what it has made there.

    A program that is run by `programs.run` is ended if it is interrupted.

    Args:
        scratch: it makes a folder that is named by its number.
    """
    assert component.environment is not None
    address = site.stack.environments[component.environment].engine
    number, file = programs.new_number(), component.token_file
    folder = f"{SCRATCH}{number}" if scratch else folder
    program = Program(address, container.id, container.name, number, folder, bucket, file)
    content = json.dumps(RUNNING.stamped(asdict(program))).encode()
    write_atomic(_file(site.target.store, program.number), content, mode=0o600)
    try:
        yield program
    except BaseException:
        with signals_deferred(), contextlib.suppress(ConcheError):  # the note stays for the next command
            _settle(site, program)
        raise
    with signals_deferred():
        _settle(site, program, ended=True)


def left(site: Site) -> list[Program]:
    """Return what the notes say is still running; only the holder of the target knows that those commands are dead."""
    return _told_apart(site)[0]


def unknown(site: Site) -> list[Path]:
    """Return the notes that cannot be understood; only their names say which number the program carries."""
    return _told_apart(site)[1]


def _told_apart(site: Site) -> tuple[list[Program], list[Path]]:
    return notes.told_apart(site.target.store.glob(f"*.{NOTE}"), lambda file: _believed(site, file))


def _believed(site: Site, file: Path) -> Program | None:
    """Return what a note says.

    Raises:
        Damaged: it cannot be understood, or names an engine or a file that no program of ours could have had.
    """
    program = _parsed(file)
    if program is None:
        return None
    token_files = {one.token_file for one in site.section.components.values()}
    if not (
        belief.is_own_engine(site, program.address)
        and belief.is_id(program.container)
        and (not program.folder or belief.is_folder(program.folder))
        and (not program.bucket or belief.is_bucket(program.bucket))
        and (not program.token_file or program.token_file in token_files)
        and file == _file(site.target.store, program.number)
    ):
        raise notes.Damaged(RUNNING.name, file, "names what is not of this stack")
    return program


def recover(site: Site) -> None:
    """End what killed commands have left running, and remove what it has made; warn about what cannot be done."""
    for program in left(site):
        try:
            _settle(site, program)
        except notes.Damaged:
            _recover_unknown(site, _file(site.target.store, program.number))
        except ConcheError as error:
            site.say(f"warning: {error.message}")
            for line in error.next_command.splitlines():
                site.say(f"warning: {line}")
    for file in unknown(site):
        _recover_unknown(site, file)


def _recover_unknown(site: Site, file: Path) -> None:
    """End a program whose note is damaged, and say what stays; the note does too."""
    site.say(f"warning: {file} is damaged, or names what is not of this stack")
    site.say("warning: an earlier command may have left a dump in a container's /tmp")
    try:
        names = _end_unknown(site, file)
    except ConcheError as error:
        site.say(f"warning: {error.message}")
        return
    for name in names:
        site.say(f"warning: run: docker exec {name} sh -c 'ls -d /tmp/conche-backup-*'")
    site.say("warning: then: invoke backup.settle --as-it-is    # forgets it")


def require_ended(site: Site) -> None:
    """End what killed commands have left running, and make sure that nothing runs any more.

    Raises:
        Unreachable: something may still run.
    """
    for program in left(site):
        try:
            _end(site, program)
        except notes.Damaged:
            _end_unknown(site, _file(site.target.store, program.number))
    for file in unknown(site):
        _end_unknown(site, file)


def require_understood(site: Site) -> None:
    """Raise the error of a note that is damaged, if there is one."""
    for file in unknown(site):
        _believed(site, file)


def forget(site: Site) -> None:
    """Forget what runs, and leave it as it is."""
    for file in site.target.store.glob(f"*.{NOTE}"):
        file.unlink(missing_ok=True)


def _settle(site: Site, program: Program, *, ended: bool = False) -> None:
    """End a program, remove what it has made, and remove its note; if its container does not run, the note stays.

    Args:
        ended: the program has ended by itself.

    Raises:
        Unreachable: it may still run.
    """
    if program.folder or program.bucket:
        seen = _seen(site, program) if ended else _end(site, program)
        if seen is not None and seen.state == "running":
            _clear(program, seen)
        elif seen is not None:
            return
    elif not ended:
        _end(site, program)
    _file(site.target.store, program.number).unlink(missing_ok=True)


def _seen(site: Site, program: Program) -> Container | None:
    """Return a program's container as it is; None if it is gone.

    Raises:
        Damaged: it is not of this stack.
    """
    seen = containers.read(program.engine, program.container)
    if seen is not None and not _is_own(site, program.address, seen):
        raise notes.Damaged(
            RUNNING.name, _file(site.target.store, program.number), f"names {seen.name}, which is not of this stack"
        )
    return seen


def _is_own(site: Site, address: str | None, container: Container) -> bool:
    """Return whether a program of ours can have run in a container: one of an environment, or a task of its stack."""
    environments = [name for name, one in site.stack.environments.items() if one.engine == address]
    projects = {site.stack.project(name) for name in environments}
    return container.project in projects or any(
        one.id == container.id for name in environments for _, one in containers_of(site.stack, name)
    )


def _end(site: Site, program: Program) -> Container | None:
    seen = _seen(site, program)
    if seen is not None and seen.state == "paused":
        raise Unreachable(
            "program-not-ended",
            f"What an earlier command started in {seen.name} cannot be stopped while that is paused.",
            next_command=f"docker unpause {seen.name}    # then try again",
        )
    if seen is not None and programs.end(program.engine, program.container, program.number):
        site.say(f"what an earlier command had started in {seen.name} was still running: it was stopped")
    return seen


def _end_unknown(site: Site, file: Path) -> list[str]:
    """End what carries the number of a damaged note, in every container where it may run; return their names.

    Raises:
        Unreachable: it may still run.
    """
    number, names = file.name.removesuffix(f".{NOTE}"), list[str]()
    if not belief.is_id(number):
        return names
    components = site.section.components.values()
    for environment in sorted({str(one.environment) for one in components if one.service}):
        engine = Engine(site.stack.environments[environment].engine)
        for _, one in containers_of(site.stack, environment):
            if one.state == "running":
                names.append(one.name)
                programs.end(engine, one.id, number)
    return names


def _clear(program: Program, container: Container) -> None:
    from conche.backup.influx import Influx

    influx = Influx(program.engine, container, program.token_file, otherwise=True)
    if program.folder:
        argv = ["sh", "-c", REMOVE, "sh", program.folder]
        programs.run(program.engine, container.id, argv, number=program.number, user="0:0", timeout=PATIENCE)
    if program.bucket and program.bucket in influx.buckets():
        try:
            influx.delete_bucket(program.bucket)
        except Unreachable as error:
            raise Unreachable(
                "influx-hangs",
                f"{container.name} does not delete the bucket {program.bucket}, which a drill made.",
                evidence=error.evidence,
                next_command=f"docker restart {container.name}    # the next backup command deletes it then",
            ) from error


def _file(store: Path, number: str) -> Path:
    return store / f"{number}.{NOTE}"


def _parsed(file: Path) -> Program | None:
    return notes.read(file, RUNNING, lambda content: Program(**content))
