"""backup.drill: a trial restore that touches nothing in service and leaves nothing behind but its result."""

from __future__ import annotations

import contextlib
import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from conche.backup import holding, online, proof, reporting, running, trust
from conche.backup.drivers import FOREIGN, by_programs, influxdb
from conche.backup.filling import fill_volume
from conche.backup.influx import BEGINNING, Influx
from conche.backup.legacy import described
from conche.backup.locks import locked
from conche.backup.losses import Losses
from conche.backup.online import put_dump
from conche.backup.site import Site, open_site
from conche.backup.source import Source
from conche.backup.staging import unpack
from conche.backup.target import StoredBackup
from conche.backup.trial import load_on_trial
from conche.backup.verify import check
from conche.command import Invocation
from conche.engine import containers, copies, health, networks, volumes
from conche.engine.connection import Engine
from conche.errors import CheckFailed, ConcheError
from conche.outcome import Outcome, Table
from conche.stack import Component

__all__ = ["drill"]


@dataclass(frozen=True)
class DrillResult:
    """The result of restoring one component on trial.

    Attributes:
        proven: whether it shows that a restore would bring back what was backed up.
        whole: a restore would bring all of it back.
    """

    component: str
    well: bool
    said: str
    proven: bool = True
    whole: bool = True

    @property
    def state(self) -> str:
        """The result in a word or two."""
        if self.well and not self.whole:
            return "not all of it"
        return ("ok" if self.proven else "not proven") if self.well else "FAILED"


def drill(call: Invocation, name: str | None) -> Outcome:
    """Restore a backup, by default the newest, into scratch places, check that it works, and record the result."""
    site = open_site(call)
    with reporting.reported(call, site, "backup.drill") as told:
        wait, patience = call.patience(60.0), call.patience(site.section.lock_wait)
        with locked(call, site, "invoke backup.drill", _touched(site), wait=wait, patience=patience):
            found = site.target.find(name or "latest")
            trust.require(found, again="")
            with _scratch(site) as folder:
                results = list(_results(site, found, folder))
            well = all(result.well for result in results)
            if well and found.manifest is not None:
                now = datetime.now(UTC)
                site.target.note(found, replace(site.target.record(found), verified=now, drilled=now))
        outcome = _outcome(found, results)
        told(outcome)
        return outcome


def _touched(site: Site) -> set[str]:
    """Return the environments in which something is tried: scratch buckets, or a copy of a service."""
    every = site.section.components.values()
    tried = [one for one in every if one.driver == "influxdb" or _is_loaded(one) or (one.drill and one.volume)]
    return {one.environment for one in tried if one.environment}


@contextlib.contextmanager
def _scratch(site: Site) -> Iterator[Path]:
    """Provide a folder for unpacked data, on the disk that a real restore would use."""
    site.make_own()
    folder = site.own / f"restore-drill-{uuid.uuid4().hex}"
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _results(site: Site, found: StoredBackup, folder: Path) -> Iterator[DrillResult]:
    known = described(site, found)
    damage = check(found.folder, known) if found.manifest else []
    yield DrillResult("all files", not damage, "; ".join(map(str, damage)) or "as the manifest says")
    for name, record in known.components.items():
        if record.absent or damage:
            continue
        site.say(f"drilling {name}")
        source = Source(site, found.folder, name, record, trusted=found.trusted)
        yield _unpacked(source, folder)
        component = site.section.components.get(name)
        if component is None or component.environment is None:
            continue
        if _is_loaded(component) and record.driver == component.driver:
            yield _loaded(source)
        elif record.driver == "command":
            yield _loadable(source)
        if record.facts.get("form") == "online":
            yield _tried(f"{name}, in scratch buckets", lambda s=source, f=found: _in_buckets(s, f))  # type: ignore[misc]
        if component.drill and component.volume:
            yield _tried(f"{name}, served by a copy", lambda s=source: _served(s))  # type: ignore[misc]


def _tried(name: str, work: Callable[[], str]) -> DrillResult:
    try:
        return DrillResult(name, well=True, said=work())
    except ConcheError as error:
        return DrillResult(name, well=False, said=_why(error))


def _unpacked(source: Source, folder: Path) -> DrillResult:
    into = folder / source.name
    # A volume is filled by root: what cannot be set here could be set there.
    unset = Losses() if source.record.driver in FOREIGN else None
    try:
        losses = unpack(source, into, unset)
    except ConcheError as error:
        return DrillResult(source.name, well=False, said=_why(error))
    files = sum(1 for path in into.rglob("*") if path.is_file() and not path.is_symlink())
    shutil.rmtree(into)
    said = "; ".join([f"unpacks to {files} files", *losses.warnings(source.name)])
    return DrillResult(source.name, well=True, said=said, whole=not losses)


def _why(error: ConcheError) -> str:
    advice = [f"Next: {line}" for line in error.next_command.splitlines()[:1]]
    return " ".join([error.message, *error.evidence[-2:], *advice])


def _is_loaded(component: Component) -> bool:
    """Return whether a dump of the component can be loaded on trial: how a `command` would, nobody knows."""
    return by_programs(component.driver) and component.driver != "command"


def _loaded(source: Source) -> DrillResult:
    name = f"{source.name}, loaded on trial"
    try:
        done = load_on_trial(source)
    except ConcheError as error:
        return DrillResult(name, well=False, said=_why(error))
    return DrillResult(name, well=True, said=done.why, proven=done.proven)


def _loadable(source: Source) -> DrillResult:
    """Judge whether a dump could replace what is there, without loading it: that would be no trial."""
    name = f"{source.name}, as a dump"
    component = source.site.section.components[source.name]
    try:
        online.require_replacing([source])
        online.require_loadable([source])
        if not component.check:
            return DrillResult(name, well=True, said="it has no check to compare the data with", proven=False)
        proof.ask(source.site, source.name, component)
    except ConcheError as error:
        return DrillResult(name, well=False, said=_why(error))
    if not proof.recorded(source.record):
        return DrillResult(name, well=True, said="the backup was made without its check", proven=False)
    return DrillResult(name, well=True, said="it can replace the current data, and its check answers")


def _in_buckets(source: Source, found: StoredBackup) -> str:
    """Restore each bucket under another name; count its values, and the live ones up to the backup's time."""
    component = source.site.section.components[source.name]
    archive = next(one for one in source.record.artifacts if one.path.endswith(influxdb.DATA_FILE))
    said = []
    with (
        source.opened(archive) as file,
        put_dump(source.site, component, file, source.limits(archive)) as (influx, folder),
    ):
        for bucket in component.buckets or influx.buckets():
            restored = _restored(source.site, component, influx, folder, bucket, found)
            live = sum(influx.counts(bucket, BEGINNING, found.created).values())
            if live and not restored:
                raise CheckFailed("drill-lost-data", f"{bucket} restores empty; the live bucket has {live} values.")
            said.append(f"{bucket}: {restored} values, live {live}")
    return "; ".join(said)


def _restored(site: Site, component: Component, influx: Influx, folder: str, bucket: str, found: StoredBackup) -> int:
    """Restore a bucket and return its number of values; the scratch bucket is removed, even after a kill."""
    scratch = f"{bucket}_drill_{uuid.uuid4().hex[:8]}"
    with running.noted(site, component, influx.container, bucket=scratch) as program:
        trial = replace(influx, number=program.number)
        trial.restore_bucket(folder, bucket, scratch)
        return sum(trial.counts(scratch, BEGINNING, found.created).values())


def _served(source: Source) -> str:
    """Run a copy of the service on a scratch volume until it is healthy."""
    component = source.site.section.components[source.name]
    assert component.volume is not None
    assert component.environment is not None
    engine = source.site.engine(component)
    users = [
        one
        for one in volumes.using(engine, component.volume)
        if one.state in ("running", "paused") and volumes.is_mounted_in(engine, one.id, component.volume)
    ]
    if not users:
        raise CheckFailed(
            "drill-without-service", f"No running container uses {component.volume}, so there is none to copy."
        )
    project = f"{source.site.stack.project(component.environment)}-drill"
    scratch = f"{project}-{uuid.uuid4().hex[:8]}"
    address = source.site.stack.environments[component.environment].engine
    copy = ""
    with holding.noted(source.site, address, component.volume, scratch):
        try:
            copies.create_volume(engine, scratch, component.volume)
            fill_volume(source, engine, scratch)
            copy = copies.start_copy(engine, users[0], component.volume, scratch, project)
            return _healthy(engine, copy)
        finally:
            if copy:
                containers.remove(engine, copy)
            networks.remove_volume(engine, scratch)


def _healthy(engine: Engine, copy: str) -> str:
    seen = containers.read(engine, copy)
    assert seen is not None
    service = containers.definition(engine, seen)
    begun = datetime.now(UTC)
    waiting = health.wait(
        engine, lambda: [one for one in [containers.read(engine, copy)] if one], {seen.service: service}
    )
    if waiting.failed:
        raise CheckFailed(
            "drill-unhealthy",
            f"The copy {next(iter(waiting.failed.values()))} on the restored data.",
            evidence=containers.last_lines(engine, copy, 5),
        )
    return f"{seen.service} was healthy on it after {(datetime.now(UTC) - begun).total_seconds():.1f} s"


def _outcome(found: StoredBackup, results: list[DrillResult]) -> Outcome:
    rows = tuple((one.component, one.state, one.said) for one in results)
    failed = [one for one in results if not one.well]
    unproven, less = [one for one in results if not one.proven], [one for one in results if not one.whole]
    said = [
        {"component": one.component, "well": one.well, "proven": one.proven, "whole": one.whole, "said": one.said}
        for one in results
    ]
    return Outcome(
        value={"backup": found.name, "well": not failed, "proven": not unproven, "results": said},
        changed=True,
        tables=[Table(("component", "state", "what was seen"), rows, title=f"drill of {found.name}")],
        lines=[
            *(f"{one.component}: {one.said}" for one in failed),
            *(f"{one.component}: not proven: {one.said}" for one in unproven),
            *(f"{one.component}: not all of it would come back: {one.said}" for one in less),
        ],
        exit_code=1 if failed else 3 if unproven or less else 0,
    )
