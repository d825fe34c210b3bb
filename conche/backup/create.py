"""backup.create: observe, dump into a private folder, verify, publish by one rename, prune."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import shutil
import time
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from conche.backup import holding, manifest, proof, reporting, scaling, sealing, settling
from conche.backup.described import described, write_manifest
from conche.backup.drivers import Dumping
from conche.backup.drivers.program import warnings_of
from conche.backup.history import History, amount, history, judged, shrinkage
from conche.backup.linking import linked_to
from conche.backup.locks import Environments, Needs, locked, resting
from conche.backup.mac import Keys
from conche.backup.manifest import ComponentRecord, Manifest, Omission, human_size
from conche.backup.mounts import unmounted
from conche.backup.prune import prune_after
from conche.backup.site import Site, open_site
from conche.backup.target import RESERVE, CheckRecord, StoredBackup, is_future, name_of, unwritable
from conche.backup.unchanged import Memory
from conche.backup.verify import Inodes, check
from conche.command import Invocation
from conche.errors import CheckFailed, ConcheError, NotFound, NotRestored, Refused, Restored, did_you_mean
from conche.outcome import Action, Kind, Outcome, Plan, Step
from conche.stack import KINDS, BackupKind, Component
from conche.vault import keys

__all__ = ["CreateOptions", "create", "in_order"]

FAT32 = 4 << 30
"""Bytes of the smallest file that some file system does not take."""

NOTHING = "No component could be dumped; no backup was made, and earlier ones are unchanged."


@dataclass(frozen=True)
class CreateOptions:
    """What a user asks of one backup.

    Attributes:
        plain_key: store the age key unencrypted.
        wait: seconds to wait for another command.
        new_target: start the target anew, with a new mark.
        smaller: components that may be smaller than before.
        reread: read everything, whatever the file system says of what has not changed.
    """

    plain_key: bool = False
    wait: float = 0.0
    new_target: bool = False
    smaller: Sequence[str] = ()
    reread: bool = False


def create(call: Invocation, kind: str, options: CreateOptions) -> Outcome:
    """Make a backup, verify it, and delete what retention does not keep."""
    chosen, plain_key = _kind(kind), options.plain_key
    site = open_site(call, "anew" if options.new_target else "known")
    _require_known(site, options.smaller)
    sealing.check_recipients(site, keys.find(call.root), plain_key=plain_key)
    plan = _plan(site, chosen)
    if call.dry_run:
        site.target.require()
        return Outcome(plan=plan)
    with reporting.reported(call, site, f"backup.create {kind}") as told:
        try:
            outcome = _locked(call, site, chosen, options, plan)
        except OSError as error:
            raise unwritable(site.target.folder, error) from error
        told(outcome)
        return outcome


def _locked(call: Invocation, site: Site, kind: BackupKind, options: CreateOptions, plan: Plan) -> Outcome:
    needs, purpose = resting(site), f"invoke backup.create {kind}"
    wait, patience = max(options.wait, call.patience(0.0)), call.patience(site.section.lock_wait)
    with locked(call, site, purpose, needs.all, wait=wait, patience=patience, lost=needs.lost) as environments:
        return _created(site, kind, options, plan, needs, environments)


def _created(
    site: Site, kind: BackupKind, options: CreateOptions, plan: Plan, needs: Needs, environments: Environments
) -> Outcome:
    previous = site.target.backups()
    now = datetime.now(UTC)
    past = [one for one in previous if one.trusted and not is_future(one.created, now)]
    told = history((one.name, one.manifest) for one in past if one.manifest)
    _require_space(site, previous)
    memory = Memory.of(site)
    # What times do not tell, such as a disk that was repaired, is noticed within a month.
    unread = {} if options.reread or kind == "monthly" else memory.earlier(past, told)
    with site.target.building() as folder:
        begun, clock = datetime.now(UTC), time.monotonic()
        name = site.target.free_name(kind, begun)
        left, dumped, sights = settling.unsettled(site), {}, {}
        for one in in_order(site.section.components, needs.of):
            task = Dumping(site, one, site.section.components[one], folder / one, options.plain_key, unread.get(one))
            dumped[one] = settling.marked(one, _dumped(task, options, told, needs), left)
            sights[one] = (task.archives, task.files)
            needs.of.pop(one, None)
            environments.keep(needs.all)
        records = {one: dumped[one] for one in site.section.components}
        _refuse_nothing(site, plan, records)
        taken = {path for earlier in unread.values() for path in earlier.taken}
        warnings, linked = linked_to(folder, records, previous, taken)
        linked += sum(one.size for record in records.values() for one in record.artifacts if one.path in taken)
        made = described(site, kind, name, begun, records)
        made = made.model_copy(update={"seconds": round(time.monotonic() - clock, 2)})
        keys = site.target.keys()
        write_manifest(folder, made, keys)
        _prove(folder, {inode: one for earlier in unread.values() for inode, one in earlier.inodes.items()})
        place = site.target.publish(folder, kind, name)
    found = StoredBackup(place, kind, begun.replace(microsecond=0), site.target.keys)
    verified = [one.verified for one in unread.values() if one.unread]
    site.target.note(found, CheckRecord(verified=min([datetime.now(UTC), *verified])))
    pruned = prune_after(site, found, previous)
    with contextlib.suppress(OSError):  # what is not remembered is read again
        memory.keep(found, made, sights)
    if made.complete:  # what restores have put aside is only kept until the next good backup
        settling.forget(site)
    outcome = _outcome(made, place, linked, plan, [*warnings, *warnings_of(records), *pruned])
    lines = [*outcome.lines, *_ways_out(kind, records, told), *_proving(name, keys)]
    outcome = replace(outcome, lines=lines, exit_code=3 if keys.unknown else outcome.exit_code)
    _require_nothing_waits(site, outcome)
    return outcome


def _require_nothing_waits(site: Site, outcome: Outcome) -> None:
    """Check that what had to wait, for this backup or an earlier one, goes on; otherwise say first what was made.

    Raises:
        NotRestored: it does not; the outcome is its rest.
    """
    try:
        holding.require_none_left(site)
        scaling.require_none_left(site)
    except NotRestored as error:
        for line in outcome.lines:
            site.say(line)
        error.rest = outcome
        raise


def in_order(components: Mapping[str, Component], needing: Container[str]) -> list[str]:
    """Return the components in reading order: those that need an environment locked first, to release it early.

    Among these, the components that wait for work to end come last: that work may be a pipeline whose deployment itself
    waits for an environment, which would otherwise stay locked.
    """
    return sorted(components, key=lambda name: (name not in needing, bool(components[name].idle)))


def _require_known(site: Site, names: Sequence[str]) -> None:
    for name in names:
        if name not in site.section.components:
            raise NotFound(
                "no-such-component",
                f"stack.yaml has no component {name!r}.{did_you_mean(name, site.section.components)}",
                looked_at=[f"components: {', '.join(site.section.components)}"],
                next_command="invoke backup.create daily --dry-run",
            )


def _ways_out(kind: BackupKind, records: dict[str, ComponentRecord], told: History) -> Iterator[str]:
    """Return what to type if a component was made smaller on purpose."""
    lost = [
        name
        for name, record in records.items()
        if record.harm and name in told.newest and shrinkage(told.newest[name].record, record)
    ]
    if lost:
        yield "Restore what was lost, or mount its disk. If it was reduced on purpose:"
        yield f"  invoke backup.create {kind} " + " ".join(f"--accept-smaller {name}" for name in lost)


def _proving(name: str, keys: Keys) -> Iterator[str]:
    """Return what to type if this backup has no MAC though the stack has a key for it."""
    if keys.unknown:
        yield f"UNPROVEN: the keys of this stack's backups cannot be read here: {keys.unknown}"
        yield "  It counts for nothing: it is never `latest`, fresh, or sent off-site. Once this passes here:"
        yield "  invoke secrets.check"
        yield f"  invoke backup.adopt {name}"


def _kind(word: str) -> BackupKind:
    for kind in KINDS:
        if kind == word:
            return kind
    raise Refused(
        "no-such-kind",
        f"A backup is daily, weekly or monthly, not {word!r}.{did_you_mean(word, KINDS)}",
        next_command="invoke backup.create daily",
    )


def _plan(site: Site, kind: BackupKind) -> Plan:
    name = name_of(site.stack.name, kind, datetime.now(UTC))
    steps = [
        Step(Action.DUMP, Kind.COMPONENT, name, f"driver {component.driver}")
        for name, component in site.section.components.items()
    ]
    return Plan((*steps, Step(Action.CREATE, Kind.BACKUP, name, "every component is dumped", undo="nothing is left")))


def _require_space(site: Site, previous: list[StoredBackup]) -> None:
    if not previous:
        return
    needed = int(previous[0].size * 1.1) + RESERVE
    free = shutil.disk_usage(site.target.folder).free
    if free < needed:
        raise Refused(
            "target-full",
            f"The next backup needs about {human_size(needed)}; {human_size(free)} are free.",
            looked_at=[str(site.target.folder)],
            next_command="invoke backup.prune --dry-run    # what could be deleted",
        )


def _dumped(task: Dumping, options: CreateOptions, told: History, needs: Needs) -> ComponentRecord:
    """Dump one component; if that fails, remove what was written and record the component as absent."""
    site, name, component, into = task.site, task.name, task.component, task.folder
    into.mkdir(mode=0o700)
    site.say(f"{name}: {component.driver}")
    if away := list(unmounted(site.root, component)):
        into.rmdir()
        site.say(f"{name}: {', '.join(away)} not mounted")
        omissions = tuple(Omission(name=path, why="is not mounted", harmful=True) for path in away)
        return ComponentRecord(driver=component.driver, absent=True, left_out=omissions)
    try:
        needs.require(name)
        record = proof.dumped(task)
    except (ConcheError, OSError) as caught:
        error = _of_the_component(caught)
        shutil.rmtree(into)
        # An optional component may be absent, but not if an earlier backup has it.
        missed = component.required or name in told.newest
        omission = Omission(name=name, why=_why(error), harmful=missed)
        site.say(f"{name}: {error.message}")
        for line in error.evidence:
            site.say(f"  | {line}")
        return ComponentRecord(driver=component.driver, absent=True, left_out=(omission,))
    for inside, _, _ in os.walk(into, topdown=False):
        with contextlib.suppress(OSError):  # a folder that is not empty stays
            Path(inside).rmdir()
    before = told.newest.get(name)
    if record.absent and component.required and not record.harm:
        had = f"; {before.backup} had {amount(before.record)}" if before else ""
        omission = Omission(name=name, why=f"is empty: nothing was found{had}", harmful=True)
        return record.model_copy(update={"left_out": (*record.left_out, omission)})
    return judged(name, record, before, component.min, accepted=name in options.smaller)


def _of_the_component(error: ConcheError | OSError) -> ConcheError:
    """Return what is wrong with one component; raises what is wrong with the target as a whole."""
    if isinstance(error, ConcheError):
        return error
    if error.errno != errno.EFBIG:
        raise error
    most = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if most != resource.RLIM_INFINITY and most < FAT32:
        return Refused(
            "file-too-large-for-user",
            f"This process may write no file larger than {human_size(most)}, and the component has or makes one.",
            looked_at=["ulimit -f"],
            next_command="ulimit -f unlimited    # or LimitFSIZE= of its unit, or fsize in limits.conf; then try again",
        )
    return Refused(
        "file-too-large-for-target",
        "The target's file system takes no file as large as this component has or makes.",
        looked_at=[f"ulimit -f: {human_size(most)}"] if most != resource.RLIM_INFINITY else [],
        next_command="move the target to ext4, xfs, btrfs or exfat: FAT32 takes up to 4 GiB",
    )


def _why(error: ConcheError) -> str:
    """Return what failed, the program's last line, and what to do: some people read only the manifest."""
    advice = [f"Next: {line}" for line in error.next_command.splitlines()[:1]]
    return " ".join(["failed:", error.message, *error.evidence[-1:], *advice])


def _refuse_nothing(site: Site, plan: Plan, records: dict[str, ComponentRecord]) -> None:
    if all(record.absent for record in records.values()):
        _require_nothing_waits(site, Outcome(plan=plan, lines=[NOTHING]))
        raise Restored(
            "backup-empty",
            NOTHING,
            evidence=[words for record in records.values() for words in record.harm],
            next_command="invoke backup.create daily --dry-run",
        )


def _prove(folder: Path, known: Inodes) -> None:
    """Read everything back before the backup becomes visible.

    Args:
        known: hashes of files that are an earlier backup's, too, and were verified with it.

    Raises:
        CheckFailed: something reads differently from what was written.
    """
    damage = check(folder, manifest.read(folder), read=known)
    if damage:
        raise CheckFailed(
            "backup-damaged-at-once",
            "The backup does not read back as it was written, and was removed; do not trust this disk.",
            evidence=[str(one) for one in damage],
            looked_at=[str(folder.parent)],
            next_command="invoke backup.verify --all",
        )


def _outcome(made: Manifest, place: Path, linked: int, plan: Plan, warnings: list[str]) -> Outcome:
    value = {
        "name": made.name,
        "folder": str(place),
        "complete": made.complete,
        "size": made.size,
        "new": made.size - linked,
        "seconds": made.seconds,
        "missing": list(made.harm),
        "verified": True,
    }
    said = (
        f"{place}: {human_size(made.size)}, {human_size(made.size - linked)} of it new, in {made.seconds:g} s, verified"
    )
    lines = [said, *([] if made.complete else ["DEGRADED:", *(f"  {words}" for words in made.harm)])]
    done = replace(plan.steps[-1], name=made.name)
    return Outcome(
        value=value,
        changed=True,
        plan=Plan((*plan.steps[:-1], done)),
        lines=lines,
        warnings=warnings,
        exit_code=0 if made.complete else 3,
    )
