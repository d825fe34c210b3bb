"""invoke env.history"""

from __future__ import annotations

from dataclasses import asdict

from conche.command import Invocation
from conche.engine import lock
from conche.engine.compose import Compose
from conche.engine.connection import Engine
from conche.env.rollout.view import show_records
from conche.errors import NotFound
from conche.outcome import Outcome, Table
from conche.release.records import PastRelease, Records
from conche.session import Session
from conche.units import span

__all__ = ["history"]

DIGESTS = ("services", "ending", "fingerprints", "files", "contents", "edge")
"""Fields of a release that tell a reader nothing, or are shown in another way."""


def history(call: Invocation, name: str, *, show: str | None) -> Outcome:
    """List the releases of an environment, newest first; or show one of them, with its evidence."""
    engine = Engine(call.environment(name).engine)
    records = show_records(Session(call, name, Compose(engine, call.stack.project(name), ())))
    current, frozen, holder = records.current, records.frozen(), lock.holder(engine, call.stack.project(name))
    if show is not None:
        return _one(records, name, show)
    entries = list(reversed(records.entries))
    rows = tuple(_row(entry, current.number if current else -1) for entry in entries)
    lines = [f"frozen by {frozen['who']} since {frozen['since']}: {frozen['reason']}"] if frozen else []
    lines += [f"locked by {holder}"] if holder else []
    if not rows:
        lines.append(f"Nothing has been deployed yet. Next: invoke env.deploy --env {name}")
    if records.unfinished is not None and holder is None:
        lines.append(f"{records.unfinished.id} was interrupted. Next: invoke env.recover --env {name}")
    columns = ("release", "result", "when", "took", "who", "image", "revision", "cause")
    return Outcome(
        value={
            "environment": name,
            "current": current.id if current else None,
            "frozen": dict(frozen) if frozen else None,
            "lock": asdict(holder) if holder else None,
            "releases": [_as_json(entry) for entry in entries],
        },
        tables=[Table(columns, rows, title=f"Releases of {name}")] if rows else [],
        lines=lines,
    )


def _as_json(entry: PastRelease) -> dict[str, object]:
    record = asdict(entry.record) if entry.record else {"number": entry.number}
    return {
        "id": f"r{entry.number}",
        "result": entry.result.value,
        **record,
        "ending": asdict(entry.ending) if entry.ending else None,
    }


def _row(entry: PastRelease, current: int) -> tuple[str, ...]:
    record, ending = entry.record, entry.ending
    if record is None:
        return f"r{entry.number}", entry.result.value, *[""] * 5, entry.newer or "its record was altered"
    mark = " (serves)" if record.number == current else ""
    return (
        record.id + mark,
        entry.result.value,
        record.started[:19].replace("T", " "),
        span(ending.seconds) if ending else "",
        f"{record.who}@{record.where}",
        f"as r{record.of}" if record.of else record.asked.rpartition("/")[2],
        record.revision,
        ending.cause if ending else "",
    )


def _one(records: Records, name: str, show: str) -> Outcome:
    wanted = show.removeprefix("r")
    entry = next((one for one in records.entries if str(one.number) == wanted), None)
    if entry is None:
        raise NotFound(
            "no-such-release",
            f"{name} has no release {show}.",
            looked_at=[", ".join(f"r{one.number}" for one in records.entries) or "there are no releases"],
            next_command=f"invoke env.history --env {name}",
        )
    said = _as_json(entry)
    rows = [(key, str(value)) for key, value in said.items() if key not in DIGESTS]
    services = entry.record.services if entry.record else {}
    rows += [(f"image of {service}", placed.image) for service, placed in services.items()]
    if entry.ending:
        rows += [("ended", entry.ending.ended), ("cause", entry.ending.cause or "-")]
    evidence = list(entry.ending.evidence) if entry.ending else []
    return Outcome(value=said, tables=[Table(("what", "value"), tuple(rows), title=f"{name} {show}")], lines=evidence)
