"""Makes a release ready, for env.deploy and env.rollback: what becomes of each service, and the steps."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from conche.command import Invocation
from conche.engine import containers, swarm
from conche.engine.compose import Compose, Configuration
from conche.engine.rendered import replicas_of
from conche.env.rollout.change import Change
from conche.env.rollout.handover import Handover, prepare_handover
from conche.env.rollout.look import NOTHING, Look
from conche.env.rollout.look import number as number_of
from conche.env.rollout.plan import Intent, Transition, changes, named, plan_record, plan_release
from conche.env.rollout.recover import settle
from conche.env.rollout.swarm_settling import settle_swarm
from conche.env.rollout.swarm_stack import plan_swarm
from conche.env.rollout.swarm_view import changes_on_swarm
from conche.env.rollout.unwinding import Before
from conche.outcome import Plan
from conche.release.document import RELEASE, Document
from conche.release.records import Record, Records

__all__ = [
    "Draft",
    "Options",
    "Release",
    "Situation",
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
    on_swarm: bool


@dataclass(frozen=True)
class Situation:
    """What a release finds.

    Attributes:
        look: the containers that run, with the deploy section by which the release is made.
        records: the releases so far.
        before: what serves, and worked.
    """

    look: Look
    records: Records
    before: Before
    on_swarm: bool


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


def look_before(call: Invocation, look: Look, records: Records, compose: Compose) -> tuple[Configuration, Situation]:
    """Return a document's configuration and what a release of it finds; Compose hashes while the engine is asked."""
    current = records.current.label if records.current else ""
    on_swarm = call.environment(look.name).swarm
    with ThreadPoolExecutor(1) as pool:
        hashing = pool.submit(compose.configuration)
        if on_swarm:
            before = Before(current or NOTHING, (), answered=False, networks=frozenset())
        else:
            before = Before.of(look, current)
        return hashing.result(), Situation(look, records, before, on_swarm)


def make_ready(situation: Situation, draft: Draft, *, force: bool) -> Release:
    """Decide what becomes of each service, and plan the steps."""
    look, records, before = situation.look, situation.records, situation.before
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
    intent = Intent(draft.configuration, record, deploy, draft.own, force, keys)
    if situation.on_swarm:
        found = named(changes_on_swarm(draft.compose, records, record, forced=force), intent, current)
        plan = plan_swarm(record.id, found, deploy, current)
    else:
        found = changes(intent, look.all(), current)
        missing = [one for one in draft.configuration.external_networks if one not in before.networks]
        handover = prepare_handover(look, found, draft.configuration)
        plan = plan_release(Transition(record.id, before.release, found, counts, missing, handover), deploy)
        if not len(plan) and deploy.serves is None:
            plan = plan_record(record.id, record, current)
    commanding = deploy.serves or next((name for name, one in services.items() if one.image in draft.own), "")
    return Release(
        record, draft.document, draft.compose, draft.configuration, draft.own, draft.salt, draft.earlier,
        found, plan, counts, look, before, commanding or next(iter(services)), handover, situation.on_swarm,
    )  # fmt: skip
