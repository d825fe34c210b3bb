"""backup.restore: verify, unpack beside, stop, exchange, start, look; and back again where it does not work."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from conche.backup import online, sync
from conche.backup.drivers.keyring import KEY
from conche.backup.exchange import Journal, Stopped
from conche.backup.legacy import described
from conche.backup.manifest import ComponentRecord, human_size
from conche.backup.show import list_backups
from conche.backup.site import Site, open_site
from conche.backup.staging import Source, opened_key, stage, unpack, volumes_of
from conche.backup.target import Found, unwritable
from conche.backup.verify import check
from conche.command import Invocation
from conche.engine import containers, health, volumes
from conche.engine.connection import Engine
from conche.engine.containers import Container
from conche.errors import CheckFailed, ConcheError, NotFound, NotRestored, Refused, Restored, Told, did_you_mean
from conche.outcome import Outcome, Plan, Step, Table
from conche.process import signals_deferred

__all__ = ["restore"]

RESERVE = 64 << 20
Stopping = dict[str, tuple[str | None, Engine, Container]]


def restore(
    call: Invocation,
    name: str | None,
    *,
    component: Sequence[str],
    target: str | None,
    force: bool,
    source: str | None,
    recovery_key: str | None,
) -> Outcome:
    """Restore a backup, some of its components, or into a new folder; without a name list what there is."""
    if source not in (None, "offsite"):
        raise Refused("no-such-source", f"--from takes offsite, not {source!r}.")
    if name is None:
        return _offered(call, offsite=source is not None)
    site = open_site(call, "any" if source else "known")
    if source and call.dry_run:
        return Outcome(plan=Plan((Step("fetch", f"backup {name}", "from the repository, then as without --from"),)))
    found = sync.fetch(call, site, name) if source else site.target.find(name)
    recovery = _recovery(recovery_key)
    records = _chosen(found, described(site, found).components, component)
    sources = [Source(site, found.folder, one, record, recovery) for one, record in records.items()]
    if target is not None:
        return _into_folder(call, site, found, sources, Path(target).expanduser())
    if not call.dry_run and not (force or call.yes):
        call.output.confirm(f"{', '.join(records)} will be replaced by {found.name}.", option="--force")
    if call.dry_run:
        return Outcome(plan=_plan(found, sources, _users(site, sources)))
    _require_key(found, sources)
    try:
        with site.locked(f"invoke backup.restore {found.name}", wait=10):
            return _in_place(site, found, sources)
    except OSError as error:
        raise unwritable(site.own, error) from error


def _offered(call: Invocation, *, offsite: bool) -> Outcome:
    """What there is to restore."""
    if not offsite:
        listed = list_backups(call)
        return replace(listed, lines=[*listed.lines, "Restore one: invoke backup.restore NAME"])
    repository, _ = sync.opened(call, open_site(call))
    there = sorted(repository.backups())
    return Outcome(
        value=there,
        tables=[Table(("backup",), tuple((one,) for one in there), title=repository.address)],
        lines=["Restore one: invoke backup.restore NAME --from offsite"],
    )


def _chosen(found: Found, records: Mapping[str, ComponentRecord], wanted: Sequence[str]) -> dict[str, ComponentRecord]:
    present = {name: record for name, record in records.items() if not record.absent}
    for name in wanted:
        if name not in present:
            raise NotFound(
                "no-such-component",
                f"{found.name} has no component {name!r}.{did_you_mean(name, present)}",
                looked_at=[f"components: {', '.join(present)}"],
                next_command=f"invoke backup.show {found.name}",
            )
    return {name: record for name, record in present.items() if not wanted or name in wanted}


def _recovery(path: str | None) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).expanduser().read_bytes()
    except OSError as error:
        raise Refused(
            "recovery-key-unreadable", f"The recovery key cannot be read: {error.strerror}.", looked_at=[path]
        ) from error


def _require_whole(found: Found, sources: Sequence[Source]) -> None:
    """Refuse a damaged component before anything is touched."""
    if found.manifest is None:
        return
    for source in sources:
        if damage := check(found.folder, found.manifest, only=source.name):
            raise CheckFailed(
                "backup-damaged",
                f"{source.name} of {found.name} is damaged; nothing was touched.",
                evidence=[str(one) for one in damage],
                next_command="invoke backup.list    # restore another one\ninvoke backup.verify --all",
            )


def _require_key(found: Found, sources: Sequence[Source]) -> None:
    """Refuse before anything is touched where the age key in the backup is needed and cannot be opened."""
    for source in sources:
        for artifact in source.record.artifacts:
            if source.record.driver == "secrets" and artifact.path.endswith(f"/{KEY}"):
                _require_whole(found, [source])
                opened_key(source, artifact)


def _require_space(folder: Path, sources: Sequence[Source]) -> None:
    wanted = RESERVE + sum(
        artifact.content or artifact.size
        for source in sources
        if source.record.driver != "volume"
        for artifact in source.record.artifacts
    )
    free = shutil.disk_usage(folder).free
    if free < wanted:
        raise Refused(
            "disk-too-full-to-restore",
            f"The restore needs {human_size(wanted)} beside what is there; {human_size(free)} are free.",
            looked_at=[str(folder)],
            next_command=f"df -h '{folder}'",
        )


def _into_folder(call: Invocation, site: Site, found: Found, sources: Sequence[Source], target: Path) -> Outcome:
    """Unpack into a folder that is not there yet; it appears when it is whole."""
    target = target.resolve()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise Refused("target-not-empty", f"{target} is there already; nothing was written.")
    plan = Plan(tuple(Step("unpack", f"component {one.name}", f"into {target}") for one in sources))
    if call.dry_run:
        return Outcome(plan=plan)
    if not target.parent.is_dir():
        raise Refused(
            "folder-missing", f"There is no folder {target.parent}.", next_command=f"mkdir -p '{target.parent}'"
        )
    _require_whole(found, sources)
    _require_space(target.parent, sources)
    staging = target.with_name(f".{target.name}.restore-{_number()}")
    try:
        for source in sources:
            site.say(f"unpacking {source.name}")
            folder = staging / source.name if source.record.driver in ("volume", "influxdb", "command") else staging
            unpack(source, folder)
        if target.exists():
            target.rmdir()
        staging.rename(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return Outcome(value={"folder": str(target)}, changed=True, plan=plan, lines=[f"{found.name} is in {target}"])


def _plan(found: Found, sources: Sequence[Source], users: Stopping) -> Plan:
    stopped = [one.name for _, _, one in users.values()]
    return Plan(
        (
            *(Step("verify", f"component {one.name}", f"of {found.name}") for one in sources),
            *(Step("unpack", f"component {one.name}", "beside what is there", undo="remove it") for one in sources),
            *(Step("stop", f"container {name}", "it uses what is exchanged", undo="start it") for name in stopped),
            *(
                Step("exchange", f"component {one.name}", "asked for", undo="exchange again", destroys=True)
                for one in sources
            ),
            *(Step("start", f"container {name}", "it ran before") for name in stopped),
        )
    )


def _in_place(site: Site, found: Found, sources: Sequence[Source]) -> Outcome:
    _require_whole(found, sources)
    _require_space(site.root, sources)
    site.make_own()
    number = _number()
    journal = Journal(number)
    staging = journal.staging(site.own)
    warnings: list[str] = []
    asked = [one for one in sources if online.is_online(one)]
    held = [one for one in sources if one not in asked]
    users = _users(site, held)
    plan = _plan(found, sources, users)
    journal.swaps = [swap for one in held for swap in volumes_of(one).values()]
    journal.write(site.own)
    try:
        for source in held:
            site.say(f"unpacking {source.name}")
            staged = stage(source, staging, number)
            journal.pairs += staged.pairs
            warnings += staged.warnings
        journal.stopped = [Stopped(address, one.id, one.name) for address, _, one in users.values()]
        journal.write(site.own)
        online.dump_before(site, asked, journal)
        _exchange(site, journal, users)
        online.restore(site, asked, journal)
    except BaseException as error:
        _take_back(site, journal, users, error)
        raise
    try:
        with signals_deferred():
            journal.done = True
            journal.write(site.own)
            journal.close(site.own)
    except OSError as error:
        warnings.append(f"the old data could not be put aside yet ({error.strerror}): the next backup command does it")
    warnings += [f"{one.name} was paused; it runs now" for _, _, one in users.values() if one.state == "paused"]
    return _outcome(site, found, sources, plan, number, warnings)


def _exchange(site: Site, journal: Journal, users: Stopping) -> None:
    for _, engine, one in users.values():
        site.say(f"stopping {one.name}")
        containers.stop(engine, one.id)
    site.say("exchanging old and new")
    journal.forward()
    _start(site, users)


def _start(site: Site, users: Stopping) -> None:
    """Start what was stopped, and wait until it works.

    Raises:
        Restored: it does not.
    """
    for _, engine, one in users.values():
        site.say(f"starting {one.name}")
        containers.start(engine, one.id)
    for _, engine, one in users.values():
        service = containers.definition(engine, one)
        service = replace(service, name=one.service or one.name)
        waiting = health.wait(engine, lambda e=engine, i=one.id: _now(e, i), {one.service: service})  # type: ignore[misc]
        if waiting.failed:
            raise Restored(
                "restore-unhealthy",
                f"{one.name} {next(iter(waiting.failed.values()))} with the restored data.",
                evidence=containers.last_lines(engine, one.id, 8),
            )


def _now(engine: Engine, container_id: str) -> list[Container]:
    seen = containers.read(engine, container_id)
    return [seen] if seen else []


def _take_back(site: Site, journal: Journal, users: Stopping, error: BaseException) -> None:
    """Put back what was there before, and see that it works.

    Raises:
        Restored: with the first error's words; what was there before is there again.
        NotRestored: it is not.
    """
    site.say("taking the restore back")
    words = error.message if isinstance(error, Told) else str(error)
    evidence = list(error.evidence) if isinstance(error, Told) else []
    try:
        with signals_deferred():
            for _, engine, one in users.values():
                containers.stop(engine, one.id)
            journal.back()
            _start(site, users)
            online.take_back(site, journal)
            journal.close(site.own)
    except (ConcheError, OSError) as second:
        raise NotRestored(
            "restore-not-taken-back",
            f"{words} What was there before could not be brought back: {second}",
            looked_at=[str(site.own), *(f"{swap.volume}: .pre-restore-{journal.number}" for swap in journal.swaps)],
            evidence=evidence,
            next_command="invoke backup.verify    # it tries again to take the restore back",
        ) from error
    if isinstance(error, (ConcheError, OSError)):
        raise Restored(
            "restore-taken-back",
            f"{words} What was there before is there again.",
            evidence=evidence,
            next_command=error.next_command if isinstance(error, Told) else "",
        ) from error


def _users(site: Site, sources: Iterable[Source]) -> Stopping:
    """The running containers that use what will be exchanged, by id."""
    found: Stopping = {}
    for source in sources:
        component = site.section.components.get(source.name)
        if component is None or component.environment is None:
            continue
        address = site.stack.environments[component.environment].engine
        engine = Engine(address)
        using = [one for swap in volumes_of(source).values() for one in volumes.using(engine, swap.volume)]
        if component.services:
            project = containers.of_project(engine, site.stack.project(component.environment))
            using += [one for one in project if one.service in component.services]
        found |= {one.id: (address, engine, one) for one in using if one.state in ("running", "paused", "restarting")}
    return found


def _number() -> str:
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}"


def _outcome(
    site: Site, found: Found, sources: Sequence[Source], plan: Plan, number: str, warnings: list[str]
) -> Outcome:
    names = [one.name for one in sources]
    kept = site.own / f"pre-restore-{number}"
    places = [str(kept)] if kept.exists() else []
    places += [f"in volumes, .pre-restore-{number}"] if any(map(volumes_of, sources)) else []
    return Outcome(
        value={"backup": found.name, "components": names, "old_data": str(kept) if kept.exists() else None},
        changed=True,
        plan=plan,
        warnings=warnings,
        lines=[
            f"{', '.join(names)}: restored from {found.name}",
            *([f"The old data are kept until the next complete backup: {' and, '.join(places)}"] if places else []),
        ],
    )
