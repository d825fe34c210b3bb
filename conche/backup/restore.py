"""backup.restore: verify, unpack beside, stop, exchange, start, check; and take it all back if it does not work."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from conche.backup import acceptance, online, room, settling, sync, trust, users
from conche.backup.destinations import require_declared
from conche.backup.drivers import in_container
from conche.backup.exchange import Journal
from conche.backup.legacy import described
from conche.backup.list import list_
from conche.backup.locks import PATIENCE, environments_of, locked
from conche.backup.manifest import ComponentRecord
from conche.backup.remnants import Remnants, remnants
from conche.backup.replacing import Replaced, Replacing, new_number, replace_data
from conche.backup.repository import opened
from conche.backup.site import Site, open_site
from conche.backup.source import Source
from conche.backup.staging import places, stage, unpack, volumes_of
from conche.backup.target import StoredBackup, unwritable
from conche.backup.users import User, Users
from conche.backup.verify import check
from conche.command import Invocation
from conche.errors import CheckFailed, NotFound, Refused, did_you_mean
from conche.outcome import Action, Kind, Outcome, Plan, Step, Table
from conche.vault.values import files_locked

__all__ = ["RestoreOptions", "restore"]

LESS = 3
"""Exit code of a restore after which something is missing that was backed up, such as an ACL."""


@dataclass(frozen=True)
class RestoreOptions:
    """What a user asks of one restore.

    Attributes:
        components: restore only these; all if empty.
        target: unpack into this new folder, and touch nothing else.
        force: do not ask.
        source: `offsite` fetches the backup first.
        recovery_key: file with the key that opens the age key of the backup.
        blind: restore even if what is there now cannot be dumped, so that there is no way back.
        accept: public keys that may read the secrets afterwards, though they cannot now.
        plain_key: take an age key that is stored unencrypted.
        unproven: restore even what is not known to be a backup of this stack.
        degraded: restore even components that are degraded in it and sound in another backup.
    """

    components: Sequence[str] = ()
    target: str | None = None
    force: bool = False
    source: str | None = None
    recovery_key: str | None = None
    blind: bool = False
    accept: Sequence[str] = ()
    plain_key: bool = False
    unproven: bool = False
    degraded: bool = False

    def again(self, name: str) -> str:
        """Return the command line that restores the same, without the options that accept keys."""
        words = ["invoke", "backup.restore", name]
        for option, value in (*(("--component", one) for one in self.components), ("--from", self.source)):
            words += [option, value] if value else []
        words += ["--recovery-key", self.recovery_key] if self.recovery_key else []
        words += ["--target", self.target] if self.target else []
        flags = (
            ("--force", self.force),
            ("--no-way-back", self.blind),
            ("--unproven", self.unproven),
            ("--degraded", self.degraded),
        )
        return shlex.join([*words, *(option for option, is_set in flags if is_set)])


def restore(call: Invocation, name: str | None, options: RestoreOptions) -> Outcome:
    """Restore a backup or some of its components, in place or into a new folder; without a name, list the backups."""
    if options.source not in (None, "offsite"):
        raise Refused("no-such-source", f"--from takes offsite, not {options.source!r}.")
    if name is None:
        return _offered(call, offsite=options.source is not None)
    site = open_site(call, "any" if options.source else "known")
    if options.source and call.dry_run:
        return Outcome(
            plan=Plan((Step(Action.FETCH, Kind.BACKUP, name, "from the repository, then restored as without --from"),))
        )
    recovery = _recovery(options.recovery_key)
    site = trust.recovered(site, call.vault, recovery)
    found = _found(call, site, name, options)
    every = described(site, found).components
    left = remnants(site, found, every, options.components)
    if left.is_partial:
        _require_none_better(left, options)
    records = _chosen(found, every, options.components)
    sources = [Source(site, found.folder, one, record, recovery, found.trusted) for one, record in records.items()]
    if options.target is not None:
        return _into_folder(call, site, found, sources, Path(options.target).expanduser())
    require_declared(found.name, sources)
    online.require_replacing(sources)
    _require_none_better(left, options)
    if call.dry_run:
        seen = acceptance.examined(sources, leniently=True)
        plan = Plan((*seen.steps(), *_plan(found, sources, _seen(site, sources))))
        return Outcome(value={"keys": seen.as_json()}, plan=plan)
    allowed = acceptance.given(options.accept)
    _require_whole(found, [one for one in sources if one.record.driver == "secrets"])
    seen = acceptance.examined(sources)
    accepted = seen.accepted(
        call.output, found.name, options.again(found.name), accept=allowed, plain_key=options.plain_key
    )
    if not (options.force or call.yes):
        call.output.confirm(f"{', '.join(records)} will be replaced by {found.name}.", option="--force")
    try:
        purpose = f"invoke backup.restore {found.name}"
        exchanged = [site.root / place for one in sources for place in places(one)]
        with (
            locked(call, site, purpose, _touched(site, sources)),
            files_locked(call.stack, site.root, exchanged, purpose, call.patience(PATIENCE)),
        ):
            done = _in_place(site, found, sources, accepted, blind=options.blind)
        return seen.told(_told(done, left))
    except OSError as error:
        raise unwritable(site.own, error) from error


def _told(done: Outcome, left: Remnants) -> Outcome:
    """Tell what came back degraded, or not at all."""
    code = done.exit_code or (LESS if left.is_partial else 0)
    return replace(done, warnings=[*done.warnings, *left.warnings()], exit_code=code)


def _found(call: Invocation, site: Site, name: str, options: RestoreOptions) -> StoredBackup:
    """Return the backup to restore, which is fetched if it is elsewhere.

    Raises:
        Refused: it is not known to be a backup of this stack, and that was not accepted.
    """
    elsewhere = options.source is not None
    found = sync.fetch(call, site, name, unproven=options.unproven) if elsewhere else site.target.find(name)
    if not options.unproven:
        trust.require(found, replace(options, unproven=True).again(found.name))
    return found if found.trusted else found.asked_for()


def _require_none_better(left: Remnants, options: RestoreOptions) -> None:
    """Refuse to restore in place what another backup has sound, unless that is wanted."""
    if options.target is not None or options.degraded:
        return
    here = replace(options, source=None)  # what --from has fetched is in the folder of the backups now
    left.require_none_better(
        lambda backup, components: replace(here, components=tuple(components)).again(backup),
        replace(here, degraded=True).again(left.backup),
    )


def _offered(call: Invocation, *, offsite: bool) -> Outcome:
    """List what can be restored."""
    if not offsite:
        listed = list_(call)
        return replace(listed, lines=[*listed.lines, "Restore one: invoke backup.restore NAME"])
    repository, _ = opened(call, open_site(call))
    there = sorted(repository.backups())
    return Outcome(
        value=there,
        tables=[Table(("backup",), tuple((one,) for one in there), title=repository.address)],
        lines=["Restore one: invoke backup.restore NAME --from offsite"],
    )


def _chosen(
    found: StoredBackup, records: Mapping[str, ComponentRecord], wanted: Sequence[str]
) -> dict[str, ComponentRecord]:
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


def _require_whole(found: StoredBackup, sources: Sequence[Source]) -> None:
    """Refuse a damaged component, before anything is touched."""
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


def _into_folder(call: Invocation, site: Site, found: StoredBackup, sources: Sequence[Source], target: Path) -> Outcome:
    """Unpack into a folder that does not exist yet, or is empty; it appears once it is complete."""
    target = target.resolve()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise Refused("target-not-empty", f"{target} already exists; nothing was written.")
    plan = Plan(tuple(Step(Action.UNPACK, Kind.COMPONENT, one.name, f"into {target}") for one in sources))
    if call.dry_run:
        return Outcome(plan=plan)
    if not target.parent.is_dir():
        raise Refused(
            "folder-missing", f"There is no folder {target.parent}.", next_command=f"mkdir -p '{target.parent}'"
        )
    _require_whole(found, sources)
    room.require_in(target.parent, sources)
    staging, warnings = target.with_name(f".{target.name}.restore-{new_number()}"), list[str]()
    try:
        for source in sources:
            site.say(f"unpacking {source.name}")
            folder = staging / source.name if in_container(source.record.driver) else staging
            warnings += unpack(source, folder).warnings(source.name)
        if target.exists():
            target.rmdir()
        staging.rename(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return Outcome(
        value={"folder": str(target)},
        changed=True,
        plan=plan,
        warnings=warnings,
        lines=[f"{found.name} is in {target}"],
        exit_code=LESS if warnings else 0,
    )


def _plan(found: StoredBackup, sources: Sequence[Source], seen: Users) -> Plan:
    stopped = [one.container.name for one in seen.values()]
    return Plan(
        (
            *(Step(Action.VERIFY, Kind.COMPONENT, one.name, f"of {found.name}") for one in sources),
            *(
                Step(Action.UNPACK, Kind.COMPONENT, one.name, "beside the current data", undo="remove it")
                for one in sources
            ),
            *(
                Step(Action.STOP, Kind.CONTAINER, name, "it uses the data to exchange", undo="start it")
                for name in stopped
            ),
            *(
                Step(Action.EXCHANGE, Kind.COMPONENT, one.name, "asked for", undo="exchange again", destroys=True)
                for one in sources
            ),
            *(Step(Action.START, Kind.CONTAINER, name, "it ran before") for name in stopped),
        )
    )


def _in_place(
    site: Site, found: StoredBackup, sources: Sequence[Source], accepted: Collection[str], *, blind: bool
) -> Outcome:
    settling.require_settled(site)
    _require_whole(found, sources)
    online.require_loadable(sources)
    room.require_beside(site.root, sources)
    seen = _seen(site, sources)
    users.require_stoppable(seen)
    site.make_own()
    asked = [one for one in sources if online.is_online(one)]
    held = [one for one in sources if one not in asked]
    journal = Journal(new_number(), [one.name for one in sources], backup=found.name)
    journal.swaps = [swap for one in held for swap in volumes_of(one).values()]
    lost: list[str] = []
    command = f"invoke backup.restore {found.name} --component"
    work = Replacing(
        loaded=[one.name for one in asked],
        stage=lambda: _staged(site, held, journal, accepted, lost),
        users=lambda: _users(site, held),
        load=lambda since: online.restore(site, asked, journal, since),
        blindly=None if blind else lambda name: f"{command} {name} --no-way-back",
    )
    done = replace_data(site, journal, work)
    return _outcome(site, found, journal, _plan(found, sources, seen), done, lost)


def _staged(
    site: Site, held: Sequence[Source], journal: Journal, accepted: Collection[str], lost: list[str]
) -> list[str]:
    """Unpack beside what is there, and say what it comes back without; return warnings about what is not restored."""
    warnings = []
    for source in held:
        site.say(f"unpacking {source.name}")
        staged = stage(source, journal.staging(site.own), journal.number)
        journal.pairs += staged.pairs
        warnings += staged.warnings
        lost += staged.losses.warnings(source.name)
    acceptance.require_staged(site, journal.pairs, accepted)
    return warnings


def _seen(site: Site, sources: Sequence[Source]) -> dict[str, User]:
    """Return every container that has to stop, in its present state.

    Raises:
        Refused: a swarm has what uses the data.
    """
    users.require_resting(site, [swap for source in sources for swap in volumes_of(source).values()])
    found = _users(site, [one for one in sources if not online.is_online(one)])
    return found | online.writers(site, [one.name for one in sources])


def _users(site: Site, sources: Sequence[Source]) -> dict[str, User]:
    """Return the running containers that use what will be exchanged."""
    paths = [site.root / place for source in sources for place in places(source)]
    return users.of_places(site, paths, [swap for source in sources for swap in volumes_of(source).values()])


def _touched(site: Site, sources: Sequence[Source]) -> set[str]:
    """Return the environments in which containers are stopped or given data, including those that share the data."""
    named = [known for one in sources if (known := site.section.components.get(one.name)) is not None]
    return environments_of(site, _seen(site, sources).values()) | {one.environment for one in named if one.environment}


def _outcome(
    site: Site, found: StoredBackup, journal: Journal, plan: Plan, done: Replaced, lost: Sequence[str]
) -> Outcome:
    given, kept = done.given, journal.aside(site.own)
    aside = [str(kept)] if kept.exists() else []
    aside += [f"in volumes, .pre-restore-{journal.number}"] if journal.swaps else []
    return Outcome(
        value={
            "backup": found.name,
            "restore": journal.number,
            "components": journal.components,
            "old_data": str(kept) if kept.exists() else None,
            "lost": list(lost),
            **given.as_json(),
        },
        changed=True,
        plan=plan,
        warnings=[*done.warnings, *lost],
        lines=[
            f"{', '.join(journal.components)}: restored from {found.name}",
            *given.lines,
            *([f"The old data are kept until the next complete backup: {' and, '.join(aside)}"] if aside else []),
            *(["Put them back: invoke backup.undo"] if aside else []),
        ],
        exit_code=given.exit_code or (LESS if lost else 0),
    )
