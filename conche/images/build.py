"""invoke images.build"""

from __future__ import annotations

from collections.abc import Sequence

from conche.command import Invocation
from conche.engine import images
from conche.engine.builds import built_outside
from conche.engine.connection import Engine
from conche.images.chosen import chosen
from conche.outcome import Action, Kind, Outcome, Plan, Step, Table
from conche.supply.build import Builder
from conche.supply.own import Own
from conche.supply.revision import Revision, revision
from conche.units import size

__all__ = ["build", "build_plan", "dirt"]


def build(call: Invocation, environment: str, image: str | None, *, fresh: bool) -> Outcome:
    """Build images for an environment; each gets the tags of the environment and of its git revision."""
    given, at = chosen(call, environment, image), revision(call.root)
    engine = Engine(call.environment(environment).engine)
    plan = build_plan(given, at)
    outside = (one for own in given if own.rendered for one in built_outside(own.rendered, call.root))
    warnings = list(dict.fromkeys((*dirt(at), *outside)))
    if call.dry_run:
        return Outcome(plan=plan, warnings=warnings)
    before = {one.name: images.find(engine, one.reference) for one in given}
    with call.output.progress(f"building {', '.join(one.name for one in given)} for {environment}") as progress:
        builder = Builder(call.vault, engine, progress, fresh, reproducible=True)
        built = {one.name: builder.build(one) for one in given}
    found = {name: images.find(engine, reference) for name, reference in built.items()}
    rows = tuple(
        (name, reference, at.name, _short(one.id), size(one.size))
        for name, reference in built.items()
        if (one := found[name])
    )
    return Outcome(
        value={
            name: {"reference": built[name], "revision": at.name, "id": one.id} for name, one in found.items() if one
        },
        changed=any(one and (one.id != (old.id if (old := before[name]) else "")) for name, one in found.items()),
        plan=plan,
        tables=[Table(("image", "reference", "revision", "id", "size"), rows)],
        warnings=warnings,
    )


def build_plan(own: Sequence[Own], at: Revision) -> Plan:
    """Return the steps that build these images."""
    cause = f"of {at.name}" if at.tag else "asked for"
    return Plan(tuple(Step(Action.BUILD, Kind.IMAGE, one.reference, cause) for one in own))


def dirt(at: Revision) -> list[str]:
    """Return warnings about images that are not built from a clean commit."""
    if not at.tag:
        return ["git does not say which commit this is: the image has no revision tag"]
    return [f"the working tree has uncommitted changes: tagged {at.tag}"] if at.dirty else []


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]
