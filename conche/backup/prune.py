"""backup.prune: deletes what retention does not keep, with a reason for each, and refuses when it would be unsafe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from conche.backup.history import history
from conche.backup.locks import locked
from conche.backup.manifest import human_size
from conche.backup.site import Site, open_site
from conche.backup.summary import doubts
from conche.backup.target import StoredBackup, future_said, is_future
from conche.command import Invocation
from conche.errors import Refused
from conche.outcome import Action, Kind, Outcome, Plan, Step, Table
from conche.stack import KINDS, BackupKind, Retention

__all__ = [
    "Decision",
    "RetentionCandidate",
    "clock_problem",
    "decide",
    "decide_future",
    "newest_sound",
    "prune",
    "prune_after",
]

LONGEST_GAP = timedelta(days=45)
"""If the newest backup is older than this, a wrong clock is more likely than a long holiday."""


@dataclass(frozen=True)
class RetentionCandidate:
    """A backup as retention sees it.

    Attributes:
        complete: nothing is missing from it, and no component has lost its data.
        sound: the components that are complete in it.
        made_by: who made it, if this version cannot read its manifest.
        doubt: why it counts for nothing: it is foreign or unproven; empty if it counts.
    """

    name: str
    kind: BackupKind
    created: datetime
    verified: bool
    complete: bool = True
    sound: frozenset[str] = frozenset()
    made_by: str = ""
    doubt: str = ""

    def is_past(self, now: datetime) -> bool:
        """Return whether retention counts it: not what is from the future, or may be somebody else's."""
        return not self.doubt and not is_future(self.created, now)


@dataclass(frozen=True)
class Decision:
    """Whether a backup stays, and why."""

    name: str
    keep: bool
    why: str


def clock_problem(backups: Sequence[RetentionCandidate], now: datetime) -> str:
    """Return why the clock cannot be trusted; empty if it can. Backups from the future are ignored."""
    past = [one for one in backups if one.is_past(now)]
    newest = max(past, key=lambda one: one.created, default=None)
    if newest and now - newest.created > LONGEST_GAP:
        return f"the newest backup, {newest.name}, is {(now - newest.created).days} days old: the clock may have jumped"
    return ""


def decide(
    backups: Sequence[RetentionCandidate], retention: dict[BackupKind, Retention], now: datetime
) -> list[Decision]:
    """Decide which backups stay and which go, the newest first; a pure function.

    A backup goes only if it is older than its kind's days, if there are as many newer verified and complete ones of its
    kind as the retention wants, and if it has no component's newest sound state. A backup from the future stays and
    counts for nothing, and so does one that this version cannot read, since its content is unknown, and one that is
    not proven to be ours, since anybody could have written it to have ours deleted.
    """
    past = [one for one in backups if one.is_past(now)]
    pinned = newest_sound(past)
    return [
        _decided_one(one, past, pinned.get(one.name, ()), retention[one.kind], now)
        for one in sorted(backups, key=lambda each: each.created, reverse=True)
    ]


def _decided_one(
    one: RetentionCandidate, past: Sequence[RetentionCandidate], pinned: Sequence[str], rule: Retention, now: datetime
) -> Decision:
    if one.made_by and not one.doubt:
        return Decision(
            one.name, keep=True, why=f"{one.kind}, made by {one.made_by}, whose manifest cannot be read here"
        )
    if one not in past:
        return Decision(one.name, keep=True, why=f"{one.kind}, {one.doubt or 'from the future'}: ignored")
    newer = sum(o.kind == one.kind and o.verified and o.complete and o.created > one.created for o in past)
    age = now - one.created
    said = f"{one.kind}, {_days(age)}"
    if age <= timedelta(days=rule.days):
        return Decision(one.name, keep=True, why=f"{said}: kept for {rule.days} days")
    if newer < rule.least:
        why = f"{said}: only {newer} newer complete and verified, {rule.least} needed"
        return Decision(one.name, keep=True, why=why)
    if pinned:
        return Decision(one.name, keep=True, why=f"{said}: the newest good one of {', '.join(pinned)}")
    why = f"{said}: older than {rule.days} days, {newer} newer complete and verified ones"
    return Decision(one.name, keep=False, why=why)


def newest_sound(backups: Sequence[RetentionCandidate]) -> dict[str, list[str]]:
    """Return, by backup, the components whose newest sound state it has; a verified backup is preferred to others."""
    pinned: dict[str, list[str]] = {}
    for part in sorted({part for one in backups for part in one.sound}):
        best = max((one for one in backups if part in one.sound), key=lambda one: (one.verified, one.created))
        pinned.setdefault(best.name, []).append(part)
    return pinned


def decide_future(backups: Sequence[RetentionCandidate], now: datetime) -> list[Decision]:
    """Decide which backups from the future go: those whose sound components are all in verified ones of today too."""
    future = [one for one in backups if is_future(one.created, now) and not one.doubt]
    today = {part for one in backups if one.is_past(now) and one.verified for part in one.sound}
    pinned = newest_sound([replace(one, sound=one.sound - today) for one in future])
    decisions = []
    for one in sorted(future, key=lambda each: each.created, reverse=True):
        only = ", ".join(pinned.get(one.name, ()))
        why = f"from the future, made at {one.created:%Y-%m-%d %H:%M} UTC by its clock"
        why += f"; nothing else has a good {only}: make a backup first" if only else ""
        why += f"; made by {one.made_by}, whose manifest cannot be read here" if one.made_by else ""
        decisions.append(Decision(one.name, keep=bool(only or one.made_by), why=why))
    return decisions


def prune(call: Invocation, *, future: bool) -> Outcome:
    """Delete what retention does not keep, or what is from the future; a dry run shows every backup with its reason."""
    site = open_site(call)
    if call.dry_run:
        return _outcome(site, *_asked(site, future=future), done=False)
    with locked(call, site, "invoke backup.prune"):
        found, decisions = _asked(site, future=future)
        _delete(site, found, decisions)
    return _outcome(site, found, decisions, done=True)


def _asked(site: Site, *, future: bool) -> tuple[list[StoredBackup], list[Decision]]:
    found, now = site.target.backups(), datetime.now(UTC)
    candidates = _candidates(site, found)
    if not future:
        _refuse_wrong_clock(candidates, now)
        return found, _decided(site, candidates, now)
    site.say(f"it is {now:%Y-%m-%d %H:%M} UTC by the clock of this machine")
    return found, decide_future(candidates, now)


def prune_after(site: Site, newest: StoredBackup, others: Sequence[StoredBackup]) -> list[str]:
    """Prune after `newest` was made and recorded as verified; return warnings, such as that nothing was pruned."""
    found, now = [newest, *others], datetime.now(UTC)
    candidates = _candidates(site, found)
    warnings = future_said(found, now)
    if problem := clock_problem([one for one in candidates if one.name != newest.name], now):
        return [*warnings, f"nothing was pruned: {problem}"]
    _delete(site, found, _decided(site, candidates, now))
    return warnings


def _delete(site: Site, found: Sequence[StoredBackup], decisions: Sequence[Decision]) -> None:
    by_name = {one.name: one for one in found}
    for one in decisions:
        if not one.keep:
            site.say(f"deleting {one.name}: {one.why}")
            site.target.discard(by_name[one.name])


def _candidates(site: Site, backups: Sequence[StoredBackup]) -> list[RetentionCandidate]:
    told = history((one.name, one.manifest) for one in backups if one.manifest and one.trusted)
    return [
        RetentionCandidate(
            name=one.name,
            kind=one.kind,
            created=one.created,
            verified=site.target.record(one).verified is not None,
            complete=one.manifest is not None and one.trusted and told.complete(one.name, one.manifest),
            sound=told.sound.get(one.name, frozenset()),
            made_by=one.made_by,
            doubt="" if one.trusted else str(one.provenance),
        )
        for one in backups
    ]


def _decided(site: Site, candidates: Sequence[RetentionCandidate], now: datetime) -> list[Decision]:
    return decide(candidates, {kind: site.section.kept(kind) for kind in KINDS}, now)


def _refuse_wrong_clock(candidates: Sequence[RetentionCandidate], now: datetime) -> None:
    if problem := clock_problem(candidates, now):
        raise Refused(
            "clock-not-trusted",
            f"Nothing is pruned: {problem}.",
            next_command="date    # correct the clock, or make a backup first: invoke backup.create daily",
        )


def _outcome(site: Site, found: Sequence[StoredBackup], decisions: Sequence[Decision], *, done: bool) -> Outcome:
    going = [one for one in decisions if not one.keep]
    sizes = {one.name: one.size for one in found if one.folder.exists()}
    rows = tuple((one.name, "kept" if one.keep else ("deleted" if done else "would go"), one.why) for one in decisions)
    return Outcome(
        value=[{"name": one.name, "keep": one.keep, "why": one.why} for one in decisions],
        changed=done and bool(going),
        plan=Plan(tuple(Step(Action.DELETE, Kind.BACKUP, one.name, one.why, destroys=True) for one in going)),
        tables=[] if not decisions else [Table(("backup", "what", "because"), rows)],
        lines=[
            *doubts(found),
            f"{len(decisions) - len(going)} kept, {human_size(sum(sizes.values()))} in {site.target.folder}",
        ],
    )


def _days(age: timedelta) -> str:
    return f"{age.days} days old" if age.days != 1 else "1 day old"
