"""invoke images.push"""

from __future__ import annotations

from conche.command import Invocation
from conche.engine import images
from conche.engine.connection import Engine
from conche.engine.transfer import Pushed
from conche.errors import NotFound
from conche.images.chosen import chosen
from conche.outcome import Action, Kind, Outcome, Plan, Step, Table
from conche.supply.inventory import REVISION
from conche.supply.login import open_registry, two_sides
from conche.supply.own import Own, Tagged, meanings
from conche.supply.own import push as push_image
from conche.supply.reference import parse

__all__ = ["push"]


def push(call: Invocation, environment: str, image: str | None) -> Outcome:
    """Push the images built for an environment: the revision's tag, then the environment's."""
    own = chosen(call, environment, image)
    engine = Engine(call.environment(environment).engine)
    given = [_on_engine(engine, one, environment) for one in own]
    plan = Plan(
        tuple(
            Step(Action.PUSH, Kind.IMAGE, str(one.reference.tagged(tag)), "asked for")
            for one in given
            for tag in one.tags
        )
    )
    if call.dry_run:
        return Outcome(plan=plan)
    registry = open_registry(call.vault, engine)
    registry.check()
    before = {one.name: meanings(registry, one) for one in given}
    with call.output.progress(f"pushing to {call.stack.registry}") as progress:
        pushed = {one.name: push_image(engine, registry, one, registry.credentials, progress) for one in given}
    rows = tuple(_row(one, pushed[one.name]) for one in given)
    return Outcome(
        value={one.name: one.as_json(pushed[one.name]) for one in given},
        changed=any(before[one.name] != meanings(registry, one) for one in given),
        plan=plan,
        tables=[Table(("image", "reference", "digest", "layers moved", "layers there"), rows)],
        warnings=two_sides(call.stack, engine),
    )


def _on_engine(engine: Engine, own: Own, environment: str) -> Tagged:
    """Find an own image on the engine, with the tag of the revision it was built from."""
    reference = parse(own.reference)
    found = images.find(engine, str(reference))
    if found is None:
        raise NotFound(
            "no-such-image",
            f"The engine does not have {reference}.",
            looked_at=[engine.address],
            next_command=f"invoke images.build --env {environment}",
        )
    tags = {parse(tag).tag for tag in found.tags if parse(tag).name == reference.name}
    at = found.labels.get(REVISION, "")
    return Tagged(own.name, reference, at if at in tags else "")


def _row(given: Tagged, pushed: Pushed) -> tuple[str, ...]:
    return given.name, str(given.reference), pushed.digest, str(pushed.moved), str(pushed.known)
