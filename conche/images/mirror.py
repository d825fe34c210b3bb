"""invoke images.mirror: copies upstream images to the private registry, so that no restart hits a rate limit."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from conche.command import Invocation
from conche.engine import images, transfer
from conche.engine.connection import Engine
from conche.engine.dockerfile import references
from conche.engine.written import services
from conche.errors import ConcheError, NotFound, Partial
from conche.outcome import Action, Kind, Outcome, Plan, Step, Table
from conche.output import Progress
from conche.stack import Stack
from conche.supply.fetch import fetch, mirrored
from conche.supply.login import open_registry
from conche.supply.reference import parse
from conche.supply.registry import Registry

__all__ = ["mirror", "upstream"]


def upstream(stack: Stack, root: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Find the upstream images named in Compose files and Dockerfiles, unless a variable names them.

    Returns:
        Those that can be mirrored, and those that cannot: an engine pulls pinned images under their own name only.
    """
    named = sorted({one for one in _named(stack, root) if _is_upstream(stack, one)})
    pinned = tuple(one for one in named if parse(one).digest)
    return tuple(one for one in named if one not in pinned), pinned


def _named(stack: Stack, root: Path) -> Iterator[str]:
    for image in stack.images.values():
        yield from references((root / image.dockerfile).read_text(encoding="utf-8"))
    for environment in stack.environments.values():
        for file in (*environment.compose, *(environment.deploy.overlay if environment.deploy else ())):
            for service in services(root / file):
                yield from _of_service(service.folder, service.body)


def _of_service(folder: Path, service: Mapping[str, Any]) -> Iterator[str]:
    """Yield a service's image; if it is built, its base images, as far as its Dockerfile can be read."""
    if "build" not in service:
        yield str(service.get("image") or "")
        return
    how = service["build"]
    said = how if isinstance(how, dict) else {"context": how}
    text = str(said.get("dockerfile_inline") or "")
    if not text:
        file = folder / str(said.get("context") or ".") / str(said.get("dockerfile") or "Dockerfile")
        with contextlib.suppress(OSError, UnicodeDecodeError):
            text = file.read_text(encoding="utf-8")
    yield from references(text)


def _is_upstream(stack: Stack, named: str) -> bool:
    return bool(named) and "$" not in named and parse(named).registry != stack.registry


def mirror(call: Invocation) -> Outcome:
    """Copy every upstream image that this stack needs into the private registry, through the engine."""
    engine = Engine()
    registry = open_registry(call.vault)
    registry.check()
    wanted, pinned = upstream(call.stack, call.root)
    warnings = [
        f"{one} is not mirrored: a reference pinned by digest is pulled only under its own name" for one in pinned
    ]
    plan = Plan(
        tuple(
            Step(Action.COPY, Kind.IMAGE, f"{one} to {mirrored(call.stack, parse(one))}", "asked for") for one in wanted
        )
    )
    if call.dry_run:
        return Outcome(plan=plan, warnings=warnings)
    states: dict[str, str] = {}
    failures: dict[str, ConcheError] = {}
    with call.output.progress(f"mirroring into {call.stack.registry}") as progress:
        for one in wanted:
            try:
                states[one] = _copy(call, engine, registry, one, progress)
            except ConcheError as error:
                failures[one] = error
                progress.step(f"{one}: {error.message}")
    rows = tuple((one, str(mirrored(call.stack, parse(one))), state) for one, state in states.items())
    outcome = Outcome(
        value={one: {"mirror": copy, "state": state} for one, copy, state in rows},
        changed="copied" in states.values(),
        plan=plan,
        tables=[Table(("image", "mirror", "state"), rows)],
        warnings=warnings,
    )
    if failures:
        incomplete = Partial(
            "mirror-incomplete",
            f"{len(failures)} of {len(wanted)} images were not copied; {len(states)} are in {call.stack.registry}.",
            looked_at=[f"{one}: {error.message}" for one, error in failures.items()],
            evidence=[words for error in failures.values() for words in error.evidence],
            next_command="invoke images.mirror    # continues where it stopped",
        )
        incomplete.rest = outcome
        raise incomplete
    return outcome


def _copy(call: Invocation, engine: Engine, registry: Registry, one: str, progress: Progress) -> str:
    copy = mirrored(call.stack, parse(one))
    fetch(call.vault, engine, one, progress, anew=False)
    try:
        if _has(registry, copy.repository, copy.tag, engine, one):
            return "same"
        progress.step(f"copying {one}")
        images.tag(engine, one, copy.name, copy.tag)
        transfer.push(engine, copy.name, copy.tag, registry.credentials, progress.amount)
    finally:
        # Even if the copy exists already: whoever made it may have been killed before this.
        images.remove(engine, str(copy))
    return "copied"


def _has(registry: Registry, repository: str, tag: str, engine: Engine, reference: str) -> bool:
    """Return whether the registry's copy is the engine's image."""
    found = images.find(engine, reference)
    try:
        manifest = registry.manifest(repository, tag)
    except NotFound:
        return False
    return found is not None and found.id in manifest.names
