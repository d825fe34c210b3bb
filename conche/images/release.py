"""invoke images.release"""

from __future__ import annotations

from conche.command import Invocation
from conche.engine.connection import Engine
from conche.errors import Refused
from conche.images.build import build_plan, dirt
from conche.images.chosen import chosen
from conche.outcome import Action, Kind, Outcome, Plan, Step
from conche.supply.build import Builder
from conche.supply.login import open_registry, two_sides
from conche.supply.own import Tagged, meanings, push
from conche.supply.reference import parse
from conche.supply.revision import revision

__all__ = ["release"]


def release(call: Invocation, environment: str, image: str | None, *, allow_dirty: bool) -> Outcome:
    """Build and push one image; stdout is its reference by digest and nothing else.

    Raises:
        Refused: a protected environment's image would be built from a tree with uncommitted changes, or the stack
            builds several images.
    """
    own, at = chosen(call, environment, image), revision(call.root)
    if at.dirty and call.environment(environment).protected and not allow_dirty:
        raise Refused(
            "tree-dirty",
            f"{at.uncommitted}, and {environment} is protected.",
            next_command="git status\ngit commit    # or, if you accept the risk: --allow-dirty",
        )
    if len(own) > 1:
        raise Refused(
            "image-unclear",
            "The stack builds several images, but a release is of one.",
            looked_at=[f"images: {', '.join(one.name for one in own)}"],
            next_command=f"invoke images.release --env {environment} --image {own[0].name}",
        )
    name = own[0].name
    engine = Engine(call.environment(environment).engine)
    planned = Tagged(name, parse(own[0].reference), at.tag)
    pushes = (Step(Action.PUSH, Kind.IMAGE, str(planned.reference.tagged(tag)), "asked for") for tag in planned.tags)
    plan = Plan((*build_plan(own, at), *pushes))
    if call.dry_run:
        return Outcome(plan=plan, warnings=dirt(at))
    registry = open_registry(call.vault, engine)
    registry.check()
    before = meanings(registry, planned)
    with call.output.progress(f"releasing {name} for {environment}") as progress:
        Builder(call.vault, engine, progress, reproducible=True).build(own[0])
        pushed = push(engine, registry, planned, registry.credentials, progress)
    value = planned.as_json(pushed)
    return Outcome(
        value=value,
        changed=before != meanings(registry, planned),
        plan=plan,
        raw=f"{value['image']}\n",
        warnings=[*dirt(at), *two_sides(call.stack, engine)],
    )
