"""invoke images.base"""

from __future__ import annotations

from collections.abc import Callable

from conche.engine import images
from conche.engine.connection import Engine
from conche.outcome import Action, Kind, Outcome, Plan, Step, Table
from conche.stack import Stack
from conche.supply.base import provide

__all__ = ["base"]


def base(stack: Stack, engine: Engine, say: Callable[[str], None], *, dry_run: bool, renew: bool = False) -> Outcome:
    """Provide every base image of stack.yaml; with `renew` refresh existing ones too, for their security updates."""
    missing = [reference for reference in stack.bases if images.find(engine, reference) is None]
    cause = "not on the engine; made from Debian's packages if no registry answers"
    wanted = list(stack.bases) if renew else missing
    plan = Plan(tuple(Step(Action.PULL, Kind.IMAGE, one, cause if one in missing else "--renew") for one in wanted))
    if dry_run:
        return Outcome(plan=plan)
    before = {reference: images.find(engine, reference) for reference in stack.bases}
    origins = {reference: provide(engine, stack.bases, reference, say, anew=renew) for reference in stack.bases}
    after = {reference: images.find(engine, reference) for reference in stack.bases}
    rows = tuple((reference, origin.value) for reference, origin in origins.items())
    return Outcome(
        value={reference: origin.name.lower() for reference, origin in origins.items()},
        changed=before != after,
        plan=plan,
        tables=[Table(("base image", "origin"), rows)],
    )
