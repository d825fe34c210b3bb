"""invoke env.rollback"""

from __future__ import annotations

import time
from dataclasses import replace

from conche.command import Invocation
from conche.engine import images
from conche.engine.compose import Compose
from conche.engine.connection import Engine
from conche.env.locking import locked
from conche.env.rollout.carry_out import Rollout
from conche.env.rollout.edge import read_template
from conche.env.rollout.look import Look, probe_kept
from conche.env.rollout.prepare import kept_images, see_disk
from conche.env.rollout.release import (
    Draft,
    Options,
    look_before,
    make_ready,
    next_number,
    settle_interrupted,
)
from conche.env.rollout.view import (
    compose_of,
    of_today,
    open_records,
    opened,
    opened_if_possible,
    require_whole,
    salt_of,
)
from conche.errors import NotFound
from conche.outcome import Outcome
from conche.release.document import Document, definition
from conche.release.records import Placed, Record, Records, Result
from conche.session import Session
from conche.stack import Deploy

__all__ = ["rollback"]


def rollback(call: Invocation, name: str, to: str | None, options: Options) -> Outcome:
    """Go back to a release: its images, its files and its environment, as a new release by the same pipeline.

    Raises:
        NotFound: there is none to go back to (exit code 6); the error lists those there are.
    """
    begun = time.monotonic()
    deploy = call.environment(name).deploy
    engine = Engine(call.environment(name).engine)
    see_disk(engine, "start")
    with locked(call, engine, name) as held:
        base = Compose(engine, call.stack.project(name), (), {}, call.output.redact)
        records = open_records(Session(call, name, base))
        records.require_thawed(name)
        newest = records.unfinished or records.current
        latest = opened_if_possible(call, records, newest)
        if latest is not None:
            look = Look(name, compose_of(base, latest), deploy, latest.body).with_probes_of(records)
            records = settle_interrupted(call, records, look)
        goal = _goal_of(records, engine, name, to)
        kept = opened(call, records, goal)
        if kept is None:
            raise NotFound(
                "release-incomplete",
                f"The document of {goal.id} no longer exists.",
                next_command=f"invoke env.history --env {name}",
            )
        require_whole(kept, goal)
        kept = of_today(call, name, kept)
        number = next_number(call, records, base, name)
        document = kept.renumbered(deploy.serves, goal.label, f"r{number}")
        same = _kept(engine, deploy, records.current, document)
        document = document.with_images({one: placed.image for one, placed in same.items()})
        if latest is not None and same:
            document = document.after(latest, deploy.serves)
        if deploy.edge is not None:
            template = kept.template or read_template(call.root, deploy)
            document = replace(document, template=template)
            deploy = deploy.model_copy(update={"port": template.port, "drain": template.drain})
        deploy = deploy.model_copy(update={"probe": probe_kept(goal) or deploy.probe})
        compose = compose_of(base, document)
        look = Look(name, compose, deploy, document.body).with_probes_of(records)
        configuration, situation = look_before(call, look, records, compose)
        placed = {one: replace(had, definition=definition(document.body, one)) for one, had in same.items()}
        record = goal.again(number, {one: service.hashes for one, service in configuration.services.items()}, placed)
        own = [placed.image for placed in goal.services.values()]
        salt = salt_of(call, records)
        draft = Draft(record, document, compose, configuration, own, salt, latest)
        ready = make_ready(situation, draft, force=True)
        return Rollout(call, records, ready, held, begun, options.timeout).carry_out()


def _goal_of(records: Records, engine: Engine, name: str, to: str | None) -> Record:
    """Return the release to go back to: the one named, or the last good one before the one that serves."""
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
    said = f"{name} has no earlier good release" if to is None else f"{to} exists, but not"
    raise _no_goal(records, name, f"{said} whose images are still on the engine.")


def _no_goal(records: Records, name: str, said: str) -> NotFound:
    rows = [f"{e.record.id if e.record else f'r{e.number}'}: {e.result.value}" for e in records.entries]
    return NotFound("no-such-release", said, looked_at=rows or ["there are no releases"], next_command=_listing(name))


def _listing(name: str) -> str:
    return f"invoke env.history --env {name}"


def _kept(engine: Engine, deploy: Deploy, current: Record | None, document: Document) -> dict[str, Placed]:
    """Return what services not behind the edge run now, if the goal has the same content in another image."""
    if deploy.serves is None or current is None:
        return {}
    asked = {name: str(body["image"]) for name, body in document.body["services"].items() if name != deploy.serves}
    return {name: current.services[name] for name in kept_images(engine, current, asked)}
