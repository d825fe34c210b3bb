"""invoke images.pull"""

from __future__ import annotations

from conche.command import Invocation
from conche.engine import images, transfer
from conche.engine.connection import Engine
from conche.images.chosen import chosen
from conche.outcome import Action, Kind, Outcome, Plan, Step, Table
from conche.supply.login import open_registry, two_sides
from conche.supply.own import differs
from conche.supply.reference import Reference, parse
from conche.supply.registry import Registry

__all__ = ["pull"]


def pull(call: Invocation, environment: str, image: str | None) -> Outcome:
    """Pull an environment's images from the registry."""
    engine = Engine(call.environment(environment).engine)
    given = [parse(one.reference) for one in chosen(call, environment, image)]
    plan = Plan(tuple(Step(Action.PULL, Kind.IMAGE, str(one), "asked for") for one in given))
    if call.dry_run:
        return Outcome(plan=plan)
    registry = open_registry(call.vault, engine)
    # The registry is asked first, because its error lists the existing tags, unlike the engine's.
    meant = [registry.manifest(one.repository, one.tag) for one in given]
    before = [images.find(engine, str(one)) for one in given]
    with call.output.progress(f"pulling from {call.stack.registry}") as progress:
        for one, manifest in zip(given, meant, strict=True):
            progress.step(f"pulling {one}")
            transfer.pull(engine, one.name, one.tag, registry.credentials, progress.amount)
            _see_pulled(engine, registry, one, manifest.digest)
    after = [images.find(engine, str(one)) for one in given]
    states = ["same" if old and new and old.id == new.id else "pulled" for old, new in zip(before, after, strict=True)]
    rows = tuple((str(one), state) for one, state in zip(given, states, strict=True))
    return Outcome(
        value={str(one): state for one, state in zip(given, states, strict=True)},
        changed="pulled" in states,
        plan=plan,
        tables=[Table(("image", "state"), rows)],
        lines=[f"Next: invoke env.update --env {environment} --service NAME    # replaces a service with it"],
        warnings=two_sides(call.stack, engine),
    )


def _see_pulled(engine: Engine, registry: Registry, one: Reference, meant: str) -> None:
    """Verify that the engine now has what the tag meant, or means now, in the registry as we reach it."""
    found = images.find(engine, str(one))
    here = {parse(text).digest for text in (found.digests if found else ()) if parse(text).name == one.name}
    if meant not in here and registry.digest(one.repository, one.tag) not in here:
        raise differs(engine, registry, f"has another image under {one} than the one pulled")
