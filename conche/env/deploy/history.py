"""env.history, env.recover, env.freeze and env.maintenance."""

from __future__ import annotations

import socket
from dataclasses import asdict, replace
from datetime import UTC, datetime

from conche.command import Invocation
from conche.engine import lock
from conche.engine.compose import Compose
from conche.engine.connection import Engine
from conche.env import on_swarm
from conche.env.deploy.look import Look
from conche.env.deploy.records import Entry, Records, who
from conche.env.deploy.recover import plan_recovery, settle
from conche.env.deploy.route import template_of
from conche.env.deploy.swarm import settle_swarm
from conche.env.deploy.view import open_records, show_records
from conche.env.locking import locked
from conche.errors import NotFound, Refused
from conche.outcome import Outcome, Plan, Step, Table
from conche.session import open_compose
from conche.units import span

__all__ = ["freeze", "history", "maintenance", "recover"]


DIGESTS = ("services", "ending", "fingerprints", "files", "contents", "edge")
"""Fields of a release that tell a reader nothing, or are shown in another way."""


def history(call: Invocation, name: str, *, show: str | None) -> Outcome:
    """List the releases of an environment, newest first; or show one of them, with its evidence."""
    engine = Engine(call.environment(name).engine)
    records = show_records(call, Compose(engine, call.stack.project(name), ()))
    current, frozen, holder = records.current, records.frozen(), lock.holder(engine, call.stack.project(name))
    if show is not None:
        return _one(records, name, show)
    entries = list(reversed(records.entries))
    rows = tuple(_row(entry, current.number if current else -1) for entry in entries)
    lines = [f"frozen by {frozen['who']} since {frozen['since']}: {frozen['reason']}"] if frozen else []
    lines += [f"locked by {holder}"] if holder else []
    if not rows:
        lines.append(f"Nothing was deployed yet. Next: invoke env.deploy --env {name}")
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


def _as_json(entry: Entry) -> dict[str, object]:
    record = asdict(entry.record) if entry.record else {"number": entry.number}
    return {
        "id": f"r{entry.number}",
        "result": entry.result.value,
        **record,
        "ending": asdict(entry.ending) if entry.ending else None,
    }


def _row(entry: Entry, current: int) -> tuple[str, ...]:
    record, ending = entry.record, entry.ending
    if record is None:
        return f"r{entry.number}", entry.result.value, *[""] * 5, entry.newer or "its record is not what was written"
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
            looked_at=[", ".join(f"r{one.number}" for one in records.entries) or "there is none at all"],
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


def recover(call: Invocation, name: str) -> Outcome:
    """Settle a release that was killed: finish it if it already serves, else take it back; remove leftovers."""
    environment = call.environment(name)
    compose = open_compose(call, name)
    compose = replace(compose, files=(*compose.files, *(call.root / one for one in environment.deploy.overlay)))
    if environment.swarm:
        return _recover_swarm(call, open_records(call, compose), compose, name)
    with locked(call, compose.engine, name):
        records = open_records(call, compose)
        look = Look(name, compose, environment.deploy, compose.configuration(hashed=False).rendered)
        recovery = plan_recovery(records, look)
        if not call.dry_run:
            records = settle(call, records, look, strict=True)
        wrong = "" if records.maintained or not recovery.serves else look.wrong(recovery.serves)
    plan, current = recovery.plan, records.current
    serves = current.id if current and current.label == recovery.serves else recovery.serves
    rows = tuple((step.action, step.subject, step.cause) for step in plan)
    said = f"{serves} serves." if serves else "Nothing serves."
    said = f"{serves} itself answers its users {wrong}. Next: invoke env.logs --env {name}" if wrong else said
    return Outcome(
        exit_code=1 if wrong and not call.dry_run else 0,
        value={"environment": name, "release": serves or None},
        changed=len(plan) > 0 and not call.dry_run,
        plan=plan,
        tables=[Table(("action", "what", "because"), rows)] if rows and not call.dry_run else [],
        lines=[] if call.dry_run else [f"Nothing to recover. {said}" if not len(plan) else said],
    )


def _recover_swarm(call: Invocation, records: Records, compose: Compose, name: str) -> Outcome:
    unfinished = records.unfinished
    steps = (Step("settle", f"release {unfinished.id}", "it was interrupted"),) if unfinished else ()
    if unfinished is not None and not call.dry_run:
        with locked(call, compose.engine, name):
            records = settle_swarm(call, records, compose, call.environment(name).deploy, name, strict=True)
    current = records.current
    said = f"{current.id} serves." if current else "Nothing serves."
    return Outcome(
        value={"environment": name, "release": current.id if current else None},
        changed=bool(steps) and not call.dry_run,
        plan=Plan(steps),
        lines=[] if call.dry_run else [said if steps else f"Nothing to recover. {said}"],
    )


def freeze(call: Invocation, name: str, *, reason: str | None, off: bool) -> Outcome:
    """Refuse every deploy from now on, for a reason; with `off`, allow them again."""
    engine = Engine(call.environment(name).engine)
    records = open_records(call, Compose(engine, call.stack.project(name), ()))
    if not off and not reason:
        raise Refused(
            "reason-missing", "A freeze wants a reason: whoever meets it has to know.",
            next_command=f"invoke env.freeze --env {name} --reason '…'",
        )  # fmt: skip
    frozen = records.frozen()
    if off and not frozen:
        return Outcome(value={"environment": name, "frozen": None}, lines=[f"Nothing to do: {name} is not frozen."])
    plan = Plan((Step("thaw" if off else "freeze", f"environment {name}", reason or "asked for"),))
    if call.dry_run:
        return Outcome(plan=plan)
    said = (
        {}
        if off
        else {
            "who": f"{who()}@{socket.gethostname()}",
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
            "reason": str(reason),
        }
    )
    records.freeze(said)
    words = f"{name} can be deployed again." if off else f"{name} is frozen: {reason}"
    return Outcome(value={"environment": name, "frozen": said or None}, changed=True, plan=plan, lines=[words])


def maintenance(call: Invocation, name: str, *, on: bool, off: bool) -> Outcome:
    """Answer every request with the maintenance page, or serve the release again."""
    if on == off:
        raise Refused(
            "options-exclude-each-other", "Exactly one of --on and --off is meant.",
            next_command=f"invoke env.maintenance --env {name} --on",
        )  # fmt: skip
    deploy = call.environment(name).deploy
    if deploy.edge is None:
        raise Refused("no-edge", f"{name} has no edge in stack.yaml, which could show a page.")
    compose = open_compose(call, name)
    if call.environment(name).swarm:
        on_swarm.refuse(
            name,
            "the edge is told there by a release which service it sends to, and by nothing else",
            f"docker service scale {compose.project}_{deploy.serves}=0    # the edge answers 502 from then on",
        )
    with locked(call, compose.engine, name):
        records = open_records(call, compose)
        look = Look(name, compose, deploy, compose.configuration(hashed=False).rendered)
        serves = look.serving()
        if not serves:
            raise Refused(
                "nothing-runs", f"The edge of {name} does not run.", next_command=f"invoke env.up --env {name}"
            )
        words = f"{name} shows the maintenance page." if on else f"{name} serves {serves}."
        if records.maintained == on:
            return Outcome(value={"environment": name, "maintenance": on}, lines=[f"Nothing to do: {words}"])
        plan = Plan((Step("switch", f"edge to {'the maintenance page' if on else serves}", "asked for"),))
        if call.dry_run:
            return Outcome(plan=plan)
        template = template_of(call, records, look, serves)
        edge, wanted = look.edge(), look.edge_configuration(template, serves, maintenance=on)
        edge.place(wanted)
        edge.prove(wanted)
        edge.switch(wanted)
        # Kept for the releases to come, and for an edge that is made anew.
        records.maintain(on=on)
    return Outcome(value={"environment": name, "maintenance": on}, changed=True, plan=plan, lines=[words])
