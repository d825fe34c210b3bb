"""What backups and restores have running inside containers: noted before it starts, and ended by the next command.

A program in a container outlives a command that is killed. Until it is ended nothing is taken back and no other is
started beside it, and what it has made there goes: a dump of a database holds its tokens.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from conche.engine import containers, programs
from conche.engine.connection import Engine
from conche.errors import ConcheError, Unreachable
from conche.files import write_atomic
from conche.formats import RUNNING
from conche.process import signals_deferred

if TYPE_CHECKING:
    from conche.backup.site import Site
    from conche.engine.containers import Container
    from conche.stack import Component

__all__ = ["Program", "forget", "left", "noted", "recover", "require_ended"]

NOTE = "running.json"


@dataclass(frozen=True)
class Program:
    """What runs in a container for us.

    Attributes:
        address: the engine's, as stack.yaml has it.
        number: that its processes carry (conche.engine.programs).
        folder: what they have made in the container, which goes with them.
        bucket: of an InfluxDB, the same.
        token_file: in the container, for that.
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
        """Where it runs."""
        return Engine(self.address)


@contextlib.contextmanager
def noted(
    site: Site, component: Component, container: Container, *, folder: str = "", bucket: str = ""
) -> Iterator[Program]:
    """Inside, a program may run in a container under a number; afterwards what it has made there is gone.

    Whoever runs it by `programs.run` has it ended where it is interrupted.
    """
    assert component.environment is not None
    address = site.stack.environments[component.environment].engine
    number, file = programs.new_number(), component.token_file
    program = Program(address, container.id, container.name, number, folder, bucket, file)
    content = json.dumps(RUNNING.stamped(asdict(program))).encode()
    write_atomic(_file(site.target.store, program.number), content, mode=0o600)
    try:
        yield program
    except BaseException:
        with signals_deferred(), contextlib.suppress(ConcheError):  # noted still, for the next command
            _settle(site, program)
        raise
    with signals_deferred():
        _settle(site, program, ended=True)


def left(store: Path) -> list[Program]:
    """What killed commands have left running; that they were killed only the holder of the target knows."""
    return [program for file in sorted(store.glob(f"*.{NOTE}")) if (program := _parsed(file)) is not None]


def recover(site: Site) -> None:
    """End what killed commands have left running, and remove what it has made; what cannot be done is said."""
    for program in left(site.target.store):
        try:
            _settle(site, program)
        except ConcheError as error:
            site.say(f"warning: {error.message}")
            for line in error.next_command.splitlines():
                site.say(f"warning: {line}")


def require_ended(site: Site) -> None:
    """See that nothing of a killed command runs any more.

    Raises:
        Unreachable: something may.
    """
    for program in left(site.target.store):
        _end(site, program)


def forget(site: Site) -> None:
    """Leave what runs as it is."""
    for file in site.target.store.glob(f"*.{NOTE}"):
        file.unlink(missing_ok=True)


def _settle(site: Site, program: Program, *, ended: bool = False) -> None:
    """End it, remove what it has made, and forget it; where its container rests, what it has made is kept in mind.

    Args:
        ended: it has ended by itself.

    Raises:
        Unreachable: it may run still.
    """
    if program.folder or program.bucket:
        seen = containers.read(program.engine, program.container) if ended else _end(site, program)
        if seen is not None and seen.state == "running":
            _clear(program, seen)
        elif seen is not None:
            return
    elif not ended:
        _end(site, program)
    _file(site.target.store, program.number).unlink(missing_ok=True)


def _end(site: Site, program: Program) -> Container | None:
    seen = containers.read(program.engine, program.container)
    if seen is not None and seen.state == "paused":
        raise Unreachable(
            "program-not-ended",
            f"What an earlier command has started in {program.name} cannot be ended while that is paused.",
            next_command=f"docker unpause {program.name}    # then again",
        )
    if seen is not None and programs.end(program.engine, program.container, program.number):
        site.say(f"what an earlier command had started in {program.name} ran still: it is ended")
    return seen


def _clear(program: Program, container: Container) -> None:
    from conche.backup.influx import Influx

    influx = Influx(program.engine, container, program.token_file, otherwise=True)
    if program.folder:
        influx.remove(program.folder)
    if program.bucket and program.bucket in influx.buckets():
        try:
            influx.delete_bucket(program.bucket)
        except Unreachable as error:
            raise Unreachable(
                "influx-hangs",
                f"{program.name} does not delete the bucket {program.bucket}, which a drill has made.",
                evidence=error.evidence,
                next_command=f"docker restart {program.name}    # the next backup command deletes it then",
            ) from error


def _file(store: Path, number: str) -> Path:
    return store / f"{number}.{NOTE}"


def _parsed(file: Path) -> Program | None:
    try:
        return Program(**RUNNING.opened(json.loads(file.read_text()), str(file)))
    except (OSError, ValueError, TypeError):
        return None
