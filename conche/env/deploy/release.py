"""env.deploy and env.rollback: one pipeline for both; every release is recorded, also one that goes back."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

from conche.command import Invocation
from conche.engine import containers, host, networks, swarm
from conche.engine.compose import Compose, Configuration
from conche.engine.connection import Engine
from conche.engine.lock import Held
from conche.env.deploy import hooks
from conche.env.deploy.document import Document, alias, definition
from conche.env.deploy.look import NOTHING, Look
from conche.env.deploy.pipeline import Pipeline
from conche.env.deploy.plan import Change, changes, plan_release, table
from conche.env.deploy.prepare import Prepared, Wanted, prepare
from conche.env.deploy.records import Ending, Record, Records, Result
from conche.env.deploy.recover import settle
from conche.env.deploy.swarm import SwarmPipeline, open_swarm, settle_swarm
from conche.env.deploy.swarm_stack import plan_swarm, swarm_changes
from conche.env.deploy.view import compose_of, open_records, opened, opened_if_possible
from conche.env.locking import locked
from conche.errors import ConcheError, Interrupted, NotFound, NotRestored, Refused, Told, Unreachable
from conche.images.fetch import fetch
from conche.outcome import Outcome, Plan
from conche.output import Progress
from conche.secret import Secret
from conche.secrets.seal import seal
from conche.stack import Deploy
from conche.units import size

__all__ = ["Options", "deploy", "rollback"]


@dataclass(frozen=True)
class Options:
    """How to deploy.

    Attributes:
        force: also where nothing changes.
        lock_wait: seconds to wait for somebody else's command.
        timeout: seconds to wait for health; None for what the healthchecks allow.
    """

    force: bool = False
    allow_dirty: bool = False
    lock_wait: float = 0.0
    timeout: float | None = None


@dataclass(frozen=True)
class Release:
    """A release that is ready to be carried out.

    Attributes:
        sealed: document and variables, encrypted, for a rollback.
        found: what becomes of each service.
    """

    record: Record
    document: Document
    compose: Compose
    configuration: Configuration
    found: tuple[Change, ...]
    plan: Plan
    counts: Mapping[str, int]


def deploy(call: Invocation, name: str, wanted: Wanted, options: Options) -> Outcome:
    """Deploy an image to an environment, without losing a request where it has an edge."""
    begun = time.monotonic()
    prepared = prepare(call, name, wanted, allow_dirty=options.allow_dirty)
    if not call.dry_run:
        _disk(prepared.engine)
        prepared = _pulled(call, prepared)
    with locked(call, prepared.engine, name, tuple(prepared.found), options.lock_wait) as held:
        records = _settled(call, prepared)
        number = records.following
        document = prepared.document(f"r{number}", records.replicas())
        compose = compose_of(prepared.compose, document)
        configuration = compose.configuration()
        record = prepared.record(number, document, configuration, kind="deploy")
        own = {pin: "" for reference, pin in prepared.pins.items() if call.stack.image_of(reference, name)}
        ready = _ready(
            prepared.deploy, records, record, document, compose, configuration, own,
            force=options.force, swarmed=call.environment(name).swarm,
        )  # fmt: skip
        return _released(call, records, ready, prepared.deploy, held, options, begun)


def rollback(call: Invocation, name: str, to: str | None, options: Options) -> Outcome:
    """Go back to a release: its images, its files and its environment, as a new release by the same pipeline.

    Raises:
        NotFound: exit code 6, with the releases there are.
    """
    begun = time.monotonic()
    environment = call.environment(name)
    engine = Engine(environment.engine)
    with locked(call, engine, name, (), options.lock_wait) as held:
        base = Compose(engine, call.stack.project(name), (), {}, call.output.redact)
        records = open_records(call, base)
        goal = _goal(records, engine, name, to)
        kept = opened(call, records, goal)
        if kept is None:
            raise NotFound("release-incomplete", f"The document of {goal.id} is gone.", next_command=_listing(name))
        call.output.redact.learn(Secret(value) for value in kept.variables.values())
        records = _recovered(call, records, compose_of(base, kept), environment.deploy, name)
        number = records.following
        document = _renumbered(kept, environment.deploy.serves, goal, number)
        compose = compose_of(base, document)
        configuration = compose.configuration()
        record = replace(
            goal,
            number=number,
            kind="rollback",
            of=goal.number,
            started=datetime.now(UTC).isoformat(timespec="milliseconds"),
            asked=goal.id,
            services={
                one: replace(placed, hashes=tuple(sorted(configuration.services[one].hashes)))
                for one, placed in goal.services.items()
                if one in configuration.services
            },
        )
        own = {placed.image: "" for placed in goal.services.values()}
        ready = _ready(
            environment.deploy, records, record, document, compose, configuration, own,
            force=True, swarmed=environment.swarm,
        )  # fmt: skip
        return _released(call, records, ready, environment.deploy, held, options, begun)


def _settled(call: Invocation, prepared: Prepared) -> Records:
    """The records, once what an interrupted release has left is settled.

    Raises:
        Refused: the environment is frozen.
    """
    records = open_records(call, prepared.compose, tuple(prepared.found))
    return _recovered(call, records, prepared.compose, prepared.deploy, prepared.name)


def _recovered(call: Invocation, records: Records, compose: Compose, deploy: Deploy, name: str) -> Records:
    frozen = records.frozen()
    if frozen:
        raise Refused(
            "environment-frozen",
            f"{name} is frozen by {frozen['who']} since {frozen['since']}: {frozen['reason']}",
            next_command=f"invoke env.freeze --env {name} --off",
        )
    if call.dry_run:
        return records
    if call.environment(name).swarm:
        return settle_swarm(call, records, compose, deploy, name)
    return settle(call, records, compose, deploy, name)


def _ready(  # noqa: PLR0913 - every part is named
    deploy: Deploy,
    records: Records,
    record: Record,
    document: Document,
    compose: Compose,
    configuration: Configuration,
    own: Mapping[str, str],
    *,
    force: bool,
    swarmed: bool,
) -> Release:
    if swarmed:
        running = swarm.services(compose.engine, compose.project)
        found = swarm_changes(running, record, records.current, forced=force)
        plan = plan_swarm(record.id, found, deploy, records.current)
        return Release(record, document, compose, configuration, found, plan, {})
    seen = containers.of_project(compose.engine, compose.project)
    definitions = {name: definition(document.body, name) for name in configuration.services}
    found = changes(configuration, seen, records.current, definitions, deploy, own, forced=force)
    counts = {
        name: int((body.get("deploy") or {}).get("replicas") or body.get("scale") or 1)
        for name, body in document.body["services"].items()
    }
    there = networks.names(compose.engine) if configuration.external_networks else frozenset()
    missing = [one for one in configuration.external_networks if one not in there]
    plan = plan_release(record.id, found, deploy, records.current, counts, missing)
    return Release(record, document, compose, configuration, found, plan, counts)


def _released(
    call: Invocation,
    records: Records,
    ready: Release,
    deploy: Deploy,
    held: Held | None,
    options: Options,
    begun: float,
) -> Outcome:
    name, record, current = ready.record.environment, ready.record, records.current
    title = f"{name}: {current.id if current else 'nothing'} to {record.id}"
    shown = table(ready.found, ready.configuration, title)
    value = {
        "environment": name,
        "release": record.id,
        "before": current.id if current else None,
        "images": {service: placed.image for service, placed in record.services.items()},
        "changes": [asdict(change) for change in ready.found],
        "changed_variables": _changed_variables(record, current),
    }
    variables = _changed_variables(record, current)
    lines = [f"Changed variables: {', '.join(variables)}"] if variables and current else []
    if call.dry_run or not len(ready.plan):
        nothing = (
            [] if len(ready.plan) else [f"Nothing to do: {current.id if current else name} is what was asked for."]
        )
        return Outcome(value=value, plan=ready.plan, tables=[shown], lines=[*lines, *nothing])
    hooks.run_first(call, deploy, record)
    pipeline = _pipeline(call, records, ready, deploy, held, options, begun)
    with call.output.progress(title) as progress:
        pipeline.progress = progress
        _carry_out(call, records, ready, deploy, pipeline, begun)
    seconds = time.monotonic() - begun
    records.forget(deploy.keep)
    warnings = hooks.run_after(call, deploy, record, Result.SUCCEEDED)
    return Outcome(
        value={**value, "seconds": round(seconds, 3), "switched_after": round(pipeline.switched_after, 3)},
        changed=True,
        plan=ready.plan,
        tables=[shown],
        lines=[*lines, f"{record.id} serves, after {seconds:.1f} s."],
        warnings=warnings,
    )


def _carry_out(
    call: Invocation, records: Records, ready: Release, deploy: Deploy, pipeline: Pipeline | SwarmPipeline, begun: float
) -> None:
    try:
        pipeline.carry_out(ready.plan)
    except Told as error:
        result = Result.FAILED if isinstance(error, NotRestored) else Result.RESTORED
        if isinstance(error, Interrupted):
            result = Result.INTERRUPTED
        if pipeline.recorded and not pipeline.committed:
            _ended(records, ready.record, result, begun, error)
            for warning in hooks.run_after(call, deploy, ready.record, result):
                call.output.say(f"warning: {warning}")
        raise


def _ended(records: Records, record: Record, result: Result, begun: float, error: Told) -> None:
    """Keep how it ended; where even that fails the first error is still the one to show."""
    cause = f"{error.code}: {error.message}"
    try:
        records.end(record, _ending(result, begun, cause, error.evidence))
    except ConcheError as problem:
        error.add_note(f"the ending was not recorded: {problem}")


def _ending(result: Result, begun: float, cause: str = "", evidence: Sequence[str] = ()) -> Ending:
    ended = datetime.now(UTC).isoformat(timespec="milliseconds")
    return Ending(result.value, ended, round(time.monotonic() - begun, 3), cause, tuple(evidence))


def _pipeline(
    call: Invocation,
    records: Records,
    ready: Release,
    deploy: Deploy,
    held: Held | None,
    options: Options,
    begun: float,
) -> Pipeline | SwarmPipeline:
    current, record = records.current, ready.record
    look = Look(record.environment, ready.compose, deploy, ready.document.body)
    bundle = json.dumps({"body": ready.document.body, "variables": ready.document.variables}).encode()

    def begin() -> None:
        records.begin(record, seal(call.stack, call.root, bundle))

    def commit() -> None:
        records.end(record, _ending(Result.SUCCEEDED, begun))

    if call.environment(record.environment).swarm:
        return open_swarm(call, records, ready, deploy, begin, commit)
    return Pipeline(
        release=record.id,
        before=current.id if current else NOTHING,
        compose=ready.compose,
        configuration=ready.configuration,
        previous=_previous(call, records, ready.compose),
        deploy=deploy,
        look=look,
        configure=lambda release: look.edge_configuration(call.root, release),
        begin=begin,
        commit=commit,
        counts=ready.counts,
        progress=Progress(call.output),
        lock=held,
        timeout=options.timeout,
    )


def _previous(call: Invocation, records: Records, like: Compose) -> Compose | None:
    """The Compose of the release that serves, by which its services can be brought back."""
    document = opened_if_possible(call, records, records.current)
    return compose_of(like, document) if document else None


def _renumbered(document: Document, serves: str | None, goal: Record, number: int) -> Document:
    """The document of an earlier release under a new number."""
    text = json.dumps(document.body)
    if serves is not None:
        text = text.replace(json.dumps(alias(serves, goal.id)), json.dumps(alias(serves, f"r{number}")))
    body = json.loads(text)
    if serves is not None:
        service = body["services"][serves]
        service["labels"]["io.conche.release"] = f"r{number}"
        service["environment"]["CONCHE_RELEASE"] = f"r{number}"
    return Document(body, document.variables)


def _goal(records: Records, engine: Engine, name: str, to: str | None) -> Record:
    """The release to go back to: the one named, or the last good one before the one that serves."""
    from conche.engine import images

    good = {e.record.number: e.record for e in records.entries if e.record and e.result is Result.SUCCEEDED}
    current = records.current
    if to is not None:
        number = int(to.removeprefix("r")) if to.removeprefix("r").isdigit() else -1
        if number not in good:
            raise _no_goal(records, name, f"{name} has no good release {to}.")
        candidates = [good[number]]
    else:
        candidates = [one for number, one in sorted(good.items(), reverse=True) if current and number < current.number]
    for one in candidates:
        if all(images.find(engine, p.image_id or p.image) is not None for p in one.services.values()):
            return one
    said = f"{name} has no earlier good release" if to is None else f"{to} is known, but not"
    raise _no_goal(records, name, f"{said} whose images are still on the engine.")


def _no_goal(records: Records, name: str, said: str) -> NotFound:
    rows = [f"{e.record.id if e.record else f'r{e.number}'}: {e.result.value}" for e in records.entries]
    return NotFound("no-such-release", said, looked_at=rows or ["there is none at all"], next_command=_listing(name))


def _listing(name: str) -> str:
    return f"invoke env.history --env {name}"


def _changed_variables(record: Record, current: Record | None) -> list[str]:
    before = current.fingerprints if current else {}
    names = record.fingerprints.keys() | before.keys()
    return sorted(name for name in names if record.fingerprints.get(name) != before.get(name))


def _disk(engine: Engine) -> None:
    free = host.free_disk(engine)
    if free is not None and free < host.MIN_FREE["pull"]:
        raise Unreachable(
            "disk-full",
            f"The engine's disk has {size(free)} free; {size(host.MIN_FREE['pull'])} are wanted.",
            next_command="invoke images.prune\ndocker system df",
        )


def _pulled(call: Invocation, prepared: Prepared) -> Prepared:
    """The same, with every image on the engine."""
    from conche.engine import images

    missing = [pin for pin in prepared.pins.values() if pin not in prepared.found]
    if missing:
        with call.output.progress("fetching what the release is made of") as progress:
            for pin in missing:
                progress.step(f"pull image {pin}")
                fetch(call.stack, call.root, prepared.engine, pin, progress)
    found = {pin: image for pin in prepared.pins.values() if (image := images.find(prepared.engine, pin))}
    return replace(prepared, found=found)
