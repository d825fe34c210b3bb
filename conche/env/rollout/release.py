"""Makes a release ready and carries it out: one pipeline for env.deploy and env.rollback, and a record of each."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial

from conche.command import Invocation
from conche.engine import containers, swarm
from conche.engine.compose import Compose, Configuration
from conche.engine.lock import Held
from conche.engine.rendered import replicas_of
from conche.env.rollout import hooks, lint
from conche.env.rollout.change import Change
from conche.env.rollout.edge import EdgeConfiguration
from conche.env.rollout.handover import Handover, prepare_handover
from conche.env.rollout.look import NOTHING, Look
from conche.env.rollout.look import number as number_of
from conche.env.rollout.pipeline import ComposePipeline
from conche.env.rollout.plan import changes, named, plan_record, plan_release, table
from conche.env.rollout.recover import settle
from conche.env.rollout.swarm import SwarmPipeline, open_swarm
from conche.env.rollout.swarm_settling import settle_swarm
from conche.env.rollout.swarm_stack import plan_swarm
from conche.env.rollout.swarm_view import changes_on_swarm
from conche.env.rollout.takeover import Takeover
from conche.env.rollout.telling import tell
from conche.env.rollout.unwinding import Before
from conche.env.rollout.view import compose_of, opened_if_possible
from conche.errors import ConcheError, Interrupted, NotRestored, Told
from conche.outcome import Outcome, Plan
from conche.output import Progress
from conche.release.document import RELEASE, Document
from conche.release.records import Ending, Record, Records, Result
from conche.stack import Deploy

__all__ = [
    "Draft",
    "Options",
    "Release",
    "carry_out",
    "look_before",
    "make_ready",
    "next_number",
    "settle_interrupted",
]


@dataclass(frozen=True)
class Options:
    """How to deploy.

    Attributes:
        force: deploy even if nothing changes.
        timeout: seconds to wait for health; None for what the healthchecks allow.
    """

    force: bool = False
    allow_dirty: bool = False
    timeout: float | None = None


@dataclass(frozen=True)
class Draft:
    """What a release is to be.

    Attributes:
        own: pinned references of this stack's own images.
        salt: the fingerprints' salt.
        earlier: the document of the release that serves; None if there is none, or no key for it.
    """

    record: Record
    document: Document
    compose: Compose
    configuration: Configuration
    own: Collection[str]
    salt: bytes = field(repr=False)
    earlier: Document | None


@dataclass(frozen=True)
class Release(Draft):
    """A release that is ready to be carried out.

    Attributes:
        found: what becomes of each service.
        commanding: the service in whose image the release command runs.
        handover: what gives way to a first release.
    """

    found: tuple[Change, ...]
    plan: Plan
    counts: Mapping[str, int]
    look: Look
    before: Before
    commanding: str
    handover: Handover


def next_number(call: Invocation, records: Records, compose: Compose, name: str) -> int:
    """Return the number of the next release, above those of all records and, should some be lost, of all that runs."""
    look = swarm.services if call.environment(name).swarm else containers.of_project
    running = look(compose.engine, compose.project)
    return max([records.following, *(number_of(one.labels.get(RELEASE, "")) + 1 for one in running)])


def settle_interrupted(call: Invocation, records: Records, look: Look) -> Records:
    """Settle what an interrupted release has left, and return the records."""
    if call.dry_run:
        return records
    if call.environment(look.name).swarm:
        return settle_swarm(call, records, look)
    return settle(call, records, look, thorough=True)


def look_before(call: Invocation, look: Look, records: Records, compose: Compose) -> tuple[Configuration, Before]:
    """Return a document's configuration and what serves now; Compose hashes while the engine is asked."""
    current = records.current.label if records.current else ""
    with ThreadPoolExecutor(1) as pool:
        hashing = pool.submit(compose.configuration)
        if call.environment(look.name).swarm:
            before = Before(current or NOTHING, (), answered=False, networks=frozenset())
        else:
            before = Before.of(look, current)
        return hashing.result(), before


def make_ready(call: Invocation, look: Look, records: Records, draft: Draft, before: Before, *, force: bool) -> Release:
    """Decide what becomes of each service, and plan the steps."""
    current, deploy, services = records.current, look.deploy, draft.configuration.services
    handover = Handover()
    record = replace(draft.record.known_as(current), probe=deploy.probe.model_dump() if deploy.serves else {})
    probes = {**look.probes, record.label: deploy.probe}
    look = replace(look, compose=draft.compose, rendered=draft.document.body, probes=probes)
    if draft.document.template is not None:
        wanted = look.edge_configuration(draft.document.template, record.label, maintenance=False)
        record = replace(record, edge=wanted.plain)
    counts = {name: replicas_of(body) for name, body in draft.document.body["services"].items()}
    keys = draft.document.altered(draft.earlier)
    if call.environment(look.name).swarm:
        found = changes_on_swarm(draft.compose, records, record, forced=force)
        found = named(found, draft.configuration, current, record, keys)
        plan = plan_swarm(record.id, found, deploy, current)
    else:
        found = changes(draft.configuration, look.all(), current, record, deploy, draft.own, forced=force, altered=keys)
        missing = [one for one in draft.configuration.external_networks if one not in before.networks]
        handover = prepare_handover(look, found, draft.configuration)
        plan = plan_release(record.id, found, deploy, before.release, counts, missing, handover)
        if not len(plan) and deploy.serves is None:
            plan = plan_record(record.id, record, current)
    commanding = deploy.serves or next((name for name, one in services.items() if one.image in draft.own), "")
    return Release(
        record, draft.document, draft.compose, draft.configuration, draft.own, draft.salt, draft.earlier,
        found, plan, counts, look, before, commanding or next(iter(services)), handover,
    )  # fmt: skip


def carry_out(
    call: Invocation,
    records: Records,
    ready: Release,
    held: Held | None,
    options: Options,
    begun: float,
) -> Outcome:
    """Carry a release out and report it; in a dry run, or where nothing changes, only report it.

    Args:
        begun: when the command began, by the monotonic clock.
    """
    name, record, current, deploy = ready.record.environment, ready.record, records.current, ready.look.deploy
    before = current.id if current and current.label == ready.before.release else ready.before.release
    title = f"{name}: {before} to {record.id}"
    shown = table(ready.found, ready.configuration, title)
    variables = record.changed_variables(current)
    value: dict[str, object] = {
        "environment": name,
        "release": record.id,
        "before": None if before == NOTHING else before,
        "images": {service: placed.image for service, placed in record.services.items()},
        "changes": [asdict(change) for change in ready.found],
        "changed_variables": variables,
    }
    lines = [f"Changed variables: {', '.join(variables)}"] if variables and current else []
    if call.dry_run or not len(ready.plan):
        if not len(ready.plan):
            lines.append(f"Nothing to do: {current.id if current else name} is what was asked for.")
        return Outcome(value=value, plan=ready.plan, tables=[shown], lines=lines)
    hooks.run_first(call, deploy, record)
    pipeline = _pipeline(call, records, ready, held, options, begun)
    with call.output.progress(title) as progress:
        pipeline.progress = progress
        _take_steps(call, records, ready, deploy, pipeline, begun)
    seconds = time.monotonic() - begun
    warnings = [*pipeline.warnings, *_forgotten(records, deploy.keep)]
    warnings += lint.stays_down(ready.document.body["services"], deploy)
    warnings += [*hooks.run_after(call, deploy, record, Result.SUCCEEDED), *tell(call, record, Result.SUCCEEDED)]
    return Outcome(
        value={**value, "seconds": round(seconds, 3), "switched_after": round(pipeline.switched_after, 3)},
        changed=True,
        plan=ready.plan,
        tables=[shown],
        lines=[*lines, f"{record.id} serves, after {seconds:.1f} s."],
        warnings=warnings,
    )


def _take_steps(
    call: Invocation,
    records: Records,
    ready: Release,
    deploy: Deploy,
    pipeline: ComposePipeline | SwarmPipeline,
    begun: float,
) -> None:
    try:
        pipeline.carry_out(ready.plan)
    except Told as error:
        result = Result.FAILED if isinstance(error, NotRestored) else Result.RESTORED
        if isinstance(error, Interrupted):
            result = Result.INTERRUPTED
        if pipeline.recorded and not pipeline.committed:
            _ended(call, records, ready.record, result, begun, error)
            problems = hooks.run_after(call, deploy, ready.record, result)
            for warning in (*problems, *tell(call, ready.record, result, f"{error.code}: {error.message}")):
                call.output.say(f"warning: {warning}")
        raise


def _forgotten(records: Records, keep: int) -> list[str]:
    """Forget old releases; return what went wrong, in words: the new one serves all the same."""
    try:
        records.forget(keep)
    except ConcheError as problem:
        return [f"the oldest releases could not be removed: {problem}"]
    return []


def _ended(call: Invocation, records: Records, record: Record, result: Result, begun: float, error: Told) -> None:
    """Record how a release ended; if even that fails, the first error is still the one to show."""
    cause, *evidence = map(call.output.redact, (f"{error.code}: {error.message}", *error.evidence))
    try:
        records.end(record, _ending(result, begun, cause, evidence))
    except ConcheError as problem:
        call.output.say(f"warning: the result of {record.id} was not recorded: {problem}")


def _ending(result: Result, begun: float, cause: str = "", evidence: Sequence[str] = ()) -> Ending:
    ended = datetime.now(UTC).isoformat(timespec="milliseconds")
    return Ending(result.value, ended, round(time.monotonic() - begun, 3), cause, tuple(evidence))


def _pipeline(
    call: Invocation, records: Records, ready: Release, held: Held | None, options: Options, begun: float
) -> ComposePipeline | SwarmPipeline:
    record, look, maintained = ready.record, ready.look, records.maintained

    def begin(standing: bytes = b"") -> None:
        every = (ready.document.packed(), ready.salt, *([standing] if standing else []))
        records.begin(record, *(call.vault.seal(record.environment, one) for one in every))

    def commit() -> None:
        made = {} if call.environment(record.environment).swarm else look.made(record)
        records.end(record, replace(_ending(Result.SUCCEEDED, begun), made=made))

    if call.environment(record.environment).swarm:
        return open_swarm(call, records, ready, look.deploy, begin, commit, options.timeout)

    def configure(release: str) -> EdgeConfiguration:
        assert ready.document.template is not None  # a release with an edge has one
        return look.edge_configuration(ready.document.template, release, maintenance=maintained)

    earlier = opened_if_possible(call, records, records.current)
    previous_port = earlier.template.port if earlier and earlier.template else look.deploy.port
    taking = partial(Takeover, handover=ready.handover, note=partial(records.note_handover, record.id))
    return (taking if ready.handover.holders else ComposePipeline)(
        release=record.label,
        before=ready.before,
        compose=ready.compose,
        configuration=ready.configuration,
        previous=_previous(call, records, ready, earlier),
        previous_port=previous_port,
        deploy=look.deploy,
        look=look,
        configure=configure,
        begin=begin,
        commit=commit,
        counts=ready.counts,
        commanding=ready.commanding,
        progress=Progress(call.output),
        lock=held,
        begun=begun,
        maintained=maintained,
        timeout=options.timeout,
    )


def _previous(call: Invocation, records: Records, ready: Release, document: Document | None) -> Compose | None:
    """Return the Compose of the release that serves, with which its services can be brought back."""
    if document is not None:
        return compose_of(ready.compose, document)
    risky = [one.service for one in ready.found if one.strategy in ("recreate", "replace")]
    if records.current is not None and risky:
        said = f"warning: {records.current.id} cannot be decrypted with the keys here"
        call.output.say(f"{said}: if this fails, {', '.join(risky)} could not be restored")
    return None
