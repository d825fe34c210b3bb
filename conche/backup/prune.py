"""backup.prune: what retention does not keep, with a reason for each, and the refusals that protect the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from conche.backup.manifest import human_size
from conche.backup.site import Site, open_site
from conche.backup.target import Found
from conche.command import Invocation
from conche.errors import Refused
from conche.outcome import Outcome, Plan, Step, Table
from conche.stack import Kind, Retention

__all__ = ["Candidate", "Decision", "decide", "prune", "prune_after"]

LONGEST_GAP = timedelta(days=45)
"""A newest backup older than this, or one from the future, more likely means a wrong clock than a long holiday."""


@dataclass(frozen=True)
class Candidate:
    """A backup as retention sees it."""

    name: str
    kind: Kind
    created: datetime
    verified: bool


@dataclass(frozen=True)
class Decision:
    """Whether a backup stays, and why."""

    name: str
    keep: bool
    why: str


def clock_problem(backups: Sequence[Candidate], now: datetime) -> str:
    """Why no age can be trusted just now; empty where it can."""
    if not backups:
        return ""
    newest = max(backups, key=lambda one: one.created)
    if newest.created > now + timedelta(minutes=5):
        return f"{newest.name} is from the future: the clock was wrong then, or is now"
    if now - newest.created > LONGEST_GAP:
        return f"the newest backup, {newest.name}, is {(now - newest.created).days} days old: the clock may have jumped"
    return ""


def decide(backups: Sequence[Candidate], retention: dict[Kind, Retention], now: datetime) -> list[Decision]:
    """What stays and what goes, the newest first: pure.

    One goes only if it is older than its kind's days, and as many newer verified ones of its kind as the retention
    wants are there.
    """
    decisions = []
    for one in sorted(backups, key=lambda each: each.created, reverse=True):
        rule = retention[one.kind]
        newer = sum(o.kind == one.kind and o.verified and o.created > one.created for o in backups)
        age = now - one.created
        if age <= timedelta(days=rule.days):
            decisions.append(Decision(one.name, keep=True, why=f"{one.kind}, {_days(age)}: kept for {rule.days} days"))
        elif newer < rule.least:
            why = f"{one.kind}, {_days(age)}: only {newer} newer verified, {rule.least} are wanted"
            decisions.append(Decision(one.name, keep=True, why=why))
        else:
            why = f"{one.kind}, {_days(age)}: older than {rule.days} days, {newer} newer verified ones"
            decisions.append(Decision(one.name, keep=False, why=why))
    return decisions


def prune(call: Invocation) -> Outcome:
    """Delete what retention does not keep; a dry run shows all of them with the reason."""
    site = open_site(call)
    if call.dry_run:
        _refuse_wrong_clock(site)
        return _outcome(site, *_decided(site), done=False)
    with site.locked("invoke backup.prune", wait=10):
        _refuse_wrong_clock(site)
        found, decisions = _decided(site)
        _delete(site, found, decisions)
    return _outcome(site, found, decisions, done=True)


def prune_after(site: Site, newest: Found) -> list[str]:
    """The same after a backup was made; warnings instead of refusals. Its verified twin must be there."""
    others = [one for one in _candidates(site) if one.name != newest.name]
    if problem := clock_problem(others, datetime.now(UTC)):
        return [f"nothing was pruned: {problem}"]
    found, decisions = _decided(site)
    _delete(site, found, decisions)
    return []


def _delete(site: Site, found: Sequence[Found], decisions: Sequence[Decision]) -> None:
    by_name = {one.name: one for one in found}
    for one in decisions:
        if not one.keep:
            site.say(f"deleting {one.name}: {one.why}")
            site.target.discard(by_name[one.name])


def _candidates(site: Site) -> list[Candidate]:
    return [
        Candidate(one.name, one.kind, one.created, site.target.record(one).verified is not None)
        for one in site.target.backups()
    ]


def _decided(site: Site) -> tuple[list[Found], list[Decision]]:
    retention = {kind: site.section.kept(kind) for kind in ("daily", "weekly", "monthly")}
    return site.target.backups(), decide(_candidates(site), retention, datetime.now(UTC))  # type: ignore[arg-type]


def _refuse_wrong_clock(site: Site) -> None:
    if problem := clock_problem(_candidates(site), datetime.now(UTC)):
        raise Refused(
            "clock-not-trusted",
            f"Nothing is pruned: {problem}.",
            next_command="date    # correct the clock, or make a backup first: invoke backup.create daily",
        )


def _outcome(site: Site, found: Sequence[Found], decisions: Sequence[Decision], *, done: bool) -> Outcome:
    going = [one for one in decisions if not one.keep]
    sizes = {one.name: one.size for one in found if one.folder.exists()}
    rows = tuple((one.name, "kept" if one.keep else ("deleted" if done else "would go"), one.why) for one in decisions)
    return Outcome(
        value=[{"name": one.name, "keep": one.keep, "why": one.why} for one in decisions],
        changed=done and bool(going),
        plan=Plan(tuple(Step("delete", f"backup {one.name}", one.why, destroys=True) for one in going)),
        tables=[] if not decisions else [Table(("backup", "what", "because"), rows)],
        lines=[f"{len(decisions) - len(going)} kept, {human_size(sum(sizes.values()))} in {site.target.folder}"],
    )


def _days(age: timedelta) -> str:
    return f"{age.days} days old" if age.days != 1 else "1 day old"
