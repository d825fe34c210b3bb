"""Loads a dump on trial, beside the database in service, and compares how much is there then with the backup."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from conche.backup import holding, proof
from conche.backup.drivers import printable, program
from conche.backup.drivers.programs import programs_of
from conche.backup.inflate import unpacked
from conche.backup.proof import Proof
from conche.backup.source import Source
from conche.engine import containers, copies, programs
from conche.engine.connection import Engine
from conche.engine.containers import Container
from conche.errors import CheckFailed
from conche.process import Completed

__all__ = ["load_on_trial"]

PATIENCE = 300.0
"""Seconds that a new server may take until it takes data."""

PAUSE = 0.5
"""Seconds between two looks at it."""


def load_on_trial(source: Source) -> Proof:
    """Load a dump into a copy of its service that begins empty, or into a scratch file, and compare what is there.

    Raises:
        CheckFailed: it is something else than what was backed up.
    """
    site, component = source.site, source.site.section.components[source.name]
    engine, argvs = site.engine(component), programs_of(component)
    if argvs.trial:
        with program.opened(site, component) as place:
            answer = _load(source, engine, place.container, argvs.trial, place.number)
    else:
        with _copy(source, engine, program.serving(site, component)) as copy:
            number = programs.new_number()
            _wait(engine, copy, argvs.ready, number)
            _load(source, engine, copy, argvs.restore, number)
            done = programs.run(
                engine, copy, argvs.check, number=number, timeout=proof.PATIENCE, exact=True, on_line=lambda _: None
            )
            answer = done.require(f"the check of {source.name} in the copy")
    return proof.judged(source.name, source.record, None, printable(answer.stdout.raw).removesuffix("\n"))


def _load(source: Source, engine: Engine, container: str, argv: Sequence[str], number: str) -> Completed:
    [artifact] = source.record.artifacts
    with source.opened(artifact) as file:
        done = programs.run(
            engine,
            container,
            argv,
            number=number,
            stdin=unpacked(file, artifact.content),
            exact=True,
            on_line=lambda _: None,
        )
        return done.require(f"loading {source.name} on trial")


@contextmanager
def _copy(source: Source, engine: Engine, original: Container) -> Iterator[str]:
    """Provide a copy of the service without any data, which is removed afterwards, also after a kill."""
    site, component = source.site, source.site.section.components[source.name]
    assert component.environment is not None
    project = f"{site.stack.project(component.environment)}-drill"
    helper = f"{project}-{uuid.uuid4().hex[:8]}"
    copy = ""
    with holding.noted(site, site.stack.environments[component.environment].engine, helper):
        try:
            copy = copies.start_empty_copy(engine, original, helper, project)
            yield copy
        finally:
            if copy:
                containers.remove(engine, copy)


def _wait(engine: Engine, copy: str, argv: Sequence[str], number: str) -> None:
    """Wait until a new server takes data.

    Raises:
        CheckFailed: it does not.
    """
    end = time.monotonic() + PATIENCE
    while True:
        seen = containers.read(engine, copy)
        runs = seen is not None and seen.state == "running"
        if runs and programs.run(engine, copy, argv, number=number, timeout=PATIENCE).ok:
            return
        if not runs or time.monotonic() > end:
            raise CheckFailed(
                "drill-unhealthy",
                "A copy of the service without data does not start.",
                evidence=containers.last_lines(engine, copy, 5),
            )
        time.sleep(PAUSE)
