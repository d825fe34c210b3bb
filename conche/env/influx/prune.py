"""env.influx.prune: count what is older, ask, delete, count again."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from conche.backup.influx import BEGINNING, Influx
from conche.command import Invocation
from conche.engine.connection import Engine
from conche.env.confirming import confirm_on
from conche.env.influx.database import opened
from conche.errors import CheckFailed, NotFound, Refused
from conche.locking import locked
from conche.outcome import Action, Kind, Outcome, Plan, Step, Table

__all__ = ["prune"]

UNITS = {"d": 1, "w": 7, "y": 365}
SHORTEST = timedelta(days=1)
Counts = dict[str, dict[str, dict[str, int]]]


def prune(call: Invocation, older_than: str, name: str, *, buckets: Sequence[str], confirm: str | None) -> Outcome:
    """Delete every measurement that is older than an age; in a dry run, only count."""
    age, environment = _age(older_than), call.environment(name)
    with locked(call, Engine(environment.engine), name):
        return _pruned(call, age, name, buckets=buckets, confirm=confirm)


def _pruned(call: Invocation, age: timedelta, name: str, *, buckets: Sequence[str], confirm: str | None) -> Outcome:
    influx = opened(call, name, "a deletion")
    now = datetime.now(UTC).replace(microsecond=0)
    stop = now - age
    counted = _counted(influx, _wanted(influx, buckets), stop, now)
    older = {bucket: sum(one["older"] for one in measured.values()) for bucket, measured in counted.items()}
    plan = Plan(
        tuple(
            Step(
                Action.DELETE,
                Kind.BUCKET,
                bucket,
                f"{count} values older than {stop:%Y-%m-%d %H:%M} UTC",
                destroys=True,
            )
            for bucket, count in older.items()
            if count
        )
    )
    value = {"before": stop.isoformat(), "buckets": counted}
    if call.dry_run or not len(plan):
        return Outcome(value=value, plan=plan, tables=[_table(counted)])
    deleted = f"{sum(older.values())} values will be deleted from the InfluxDB of {name}"
    confirm_on(call, name, f"{deleted}; only a backup can bring them back.", confirm)
    for step in plan:
        influx.delete(step.name, BEGINNING, stop)
    left = {step.name: sum(influx.counts(step.name, BEGINNING, stop).values()) for step in plan}
    if any(left.values()):
        raise CheckFailed(
            "influx-not-pruned", "InfluxDB still has values that it should have deleted.", evidence=[str(left)]
        )
    return Outcome(
        value=value,
        changed=True,
        plan=plan,
        tables=[_table(counted)],
        lines=["Deleted; a second count found none left."],
    )


def _age(text: str) -> timedelta:
    match = re.fullmatch(r"([0-9]{1,5})([dwy])", text.strip())
    age = timedelta(days=int(match[1]) * UNITS[match[2]]) if match else timedelta()
    if not SHORTEST <= age < datetime.now(UTC) - BEGINNING:
        raise Refused(
            "not-an-age",
            f"{text!r} is not an age such as 90d, 12w or 1y, of a day or more and not reaching back before 1970.",
            next_command="invoke env.influx.prune 90d --dry-run",
        )
    return age


def _wanted(influx: Influx, buckets: Sequence[str]) -> Sequence[str]:
    there = influx.buckets()
    absent = [one for one in buckets if one not in there]
    if absent:
        raise NotFound(
            "no-such-bucket", f"There is no bucket {', '.join(absent)}.", looked_at=[f"buckets: {', '.join(there)}"]
        )
    return buckets or there


def _counted(influx: Influx, buckets: Sequence[str], stop: datetime, now: datetime) -> Counts:
    counted: Counts = {}
    for bucket in buckets:
        older = influx.counts(bucket, BEGINNING, stop)
        every = influx.counts(bucket, BEGINNING, now + timedelta(days=365))
        counted[bucket] = {one: {"older": older.get(one, 0), "all": every[one]} for one in sorted(every)}
    return counted


def _table(counted: Counts) -> Table:
    rows = tuple(
        (bucket, measurement, str(one["older"]), str(one["all"]))
        for bucket, measured in counted.items()
        for measurement, one in measured.items()
    )
    return Table(("bucket", "measurement", "older", "all"), rows)
