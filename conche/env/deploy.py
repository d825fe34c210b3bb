"""invoke env.deploy"""

from __future__ import annotations

import time
from dataclasses import replace

from conche.command import Invocation
from conche.env.locking import locked
from conche.env.rollout.adopt import adopted
from conche.env.rollout.carry_out import Rollout
from conche.env.rollout.look import Look
from conche.env.rollout.plan import plan_route
from conche.env.rollout.prepare import Wanted, prepare, pulled
from conche.env.rollout.release import (
    Draft,
    Options,
    Release,
    look_before,
    make_ready,
    next_number,
    settle_interrupted,
)
from conche.env.rollout.route import is_other, rerouted
from conche.env.rollout.view import compose_of, open_records, opened_if_possible, salt_of
from conche.env.waiting import never_healthy
from conche.outcome import Outcome
from conche.release.document import Document
from conche.release.records import Record
from conche.session import Session

__all__ = ["deploy"]


def deploy(call: Invocation, name: str, wanted: Wanted, options: Options) -> Outcome:
    """Deploy an image to an environment, without losing a request if it has an edge."""
    begun = time.monotonic()
    prepared = prepare(call, name, wanted, allow_dirty=options.allow_dirty)
    if not call.dry_run:
        prepared = pulled(call, prepared)
    waiting = never_healthy(prepared.engine, prepared.configuration, [*prepared.configuration.services])
    if waiting is not None and not prepared.swarm:
        raise waiting
    with locked(call, prepared.engine, name, tuple(prepared.found)) as held:
        records = open_records(Session(call, name, prepared.compose), tuple(prepared.found))
        records.require_thawed(name)
        look = Look(name, prepared.compose, prepared.deploy, prepared.configuration.rendered).with_probes_of(records)
        records = settle_interrupted(call, records, look)
        salt = salt_of(call, records)
        prepared = prepared.fingerprinted(salt)
        number = next_number(call, records, prepared.compose, name)
        current = records.current
        earlier = opened_if_possible(call, records, current)
        prepared = prepared.keeping(current)
        document = prepared.document(f"r{number}", records.replicas(), earlier, forced=options.force)
        compose = compose_of(prepared.compose, document)
        configuration, situation = look_before(call, look, records, compose)
        record = prepared.record(number, document, configuration).known_as(records.current)
        record = adopted(prepared, look.all(), record)
        draft = Draft(record, document, compose, configuration, prepared.owned(document), salt, earlier)
        ready = make_ready(situation, draft, force=options.force)
        if not len(ready.plan) and current and prepared.template and is_other(look, prepared.template, current.label):
            if earlier is not None and not earlier.masked:
                ready = _rerouted(ready, earlier, current)
            else:  # what its containers were made from cannot be read here, so they are made anew
                ready = make_ready(situation, draft, force=True)
        done = Rollout(call, records, ready, held, begun, options.timeout).carry_out()
        return replace(done, warnings=[*done.warnings, *prepared.ungiven])


def _rerouted(ready: Release, earlier: Document, current: Record) -> Release:
    """Make a release that changes only the edge's configuration: what runs behind it stays."""
    document, record = rerouted(ready.document, ready.record, earlier, current)
    assert document.template is not None
    compose, deploy = compose_of(ready.compose, document), ready.look.deploy
    look = replace(ready.look, compose=compose, rendered=document.body)
    switched = {"strategy": "switch", "cause": "its configuration changed"}
    return replace(
        ready,
        record=replace(record, edge=look.edge_configuration(document.template, record.label, maintenance=False).plain),
        document=document,
        compose=compose,
        configuration=compose.configuration(hashed=False),
        found=tuple(replace(one, **switched) if one.service == deploy.edge else one for one in ready.found),
        plan=plan_route(record.id, deploy, current.id),
        look=look,
    )
