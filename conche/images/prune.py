"""images.prune: which images may go, and why the others stay; a pure decision, then deletion by digest.

A registry deletes a manifest with every tag that means it, so tags are judged in groups: what one of them needs, all
keep.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from conche.command import Invocation
from conche.engine import images, lock
from conche.engine.connection import Engine, EngineRefused
from conche.engine.images import Found
from conche.errors import Refused
from conche.images.build import STACK
from conche.images.collect import collect
from conche.images.login import open_registry
from conche.images.observe import Kept, Observed, engines, observe
from conche.images.reference import parse
from conche.images.registry import Registry
from conche.outcome import Outcome, Plan, Step, Table
from conche.stack import Stack

__all__ = ["Decision", "decide", "prune"]

OURS = re.compile(r"[0-9a-f]{7,40}(-dirty)?")
"""Tags that images.build gives by itself. Any other was given by hand, and stays."""


@dataclass(frozen=True)
class Decision:
    """What becomes of one image in one place.

    Attributes:
        where: `registry`, or an engine's address.
        digest: of the manifest in the registry; the image's id on an engine.
        stays: why it is kept; empty where it goes.
    """

    where: str
    repository: str
    digest: str
    tags: tuple[str, ...]
    stays: str

    @property
    def goes(self) -> bool:
        return not self.stays

    def step(self, keep: int) -> Step:
        names = ", ".join(self.tags) or self.digest[:19]
        cause = f"none of the {keep} newest; no environment runs it"
        place = "registry" if self.where == "registry" else "engine"
        return Step("delete", f"image {self.repository}:{names} ({place})", cause, destroys=True)


def decide(stack: Stack, seen: Observed, needed: Mapping[str, str], keep: int) -> list[Decision]:
    """Judge every image of the registry and of the engines.

    Args:
        needed: digest or image id -> why it must stay, such as the releases that a rollback may need.
        keep: how many of the newest to keep in each repository, in each place.
    """
    reasons = {**needed}
    for run in seen.running:
        for identity in (run.id, *run.digests):
            reasons.setdefault(identity, f"runs in {run.environment}")
    own = {environment.tag: name for name, environment in stack.environments.items()}
    decisions = [*_in_registry(seen.kept, own, reasons, keep)]
    for address, found in seen.local.items():
        decisions += _on_engine(stack, address, found, own, reasons, keep)
    return decisions


def _in_registry(
    kept: Sequence[Kept], own: Mapping[str, str], reasons: Mapping[str, str], keep: int
) -> Iterator[Decision]:
    for repository in sorted({one.repository for one in kept}):
        groups: dict[str, list[Kept]] = {}
        for one in kept:
            if one.repository == repository:
                groups.setdefault(one.digest, []).append(one)
        newest = sorted(groups, key=lambda digest: (groups[digest][0].created, digest), reverse=True)[:keep]
        for digest, group in groups.items():
            tags = tuple(one.tag for one in group)
            yield Decision("registry", repository, digest, tags, _why(tags, (digest,), own, reasons, newest, keep))


def _on_engine(
    stack: Stack,
    address: str,
    found: Sequence[Found],
    own: Mapping[str, str],
    reasons: Mapping[str, str],
    keep: int,
) -> Iterator[Decision]:
    names = {f"{stack.registry}/{image.repository}" for image in stack.images.values()}
    newest = [image.id for image in found if image.tags][:keep]
    for image in found:
        tags = tuple(parse(tag).tag for tag in image.tags if parse(tag).name in names)
        digests = tuple(parse(text).digest for text in image.digests)
        repository = next((parse(text).repository for text in (*image.tags, *image.digests)), "")
        stays = _why(tags, (image.id, *digests), own, reasons, newest, keep)
        yield Decision(address, repository, image.id, tags, stays)


def _why(
    tags: Sequence[str],
    identities: Sequence[str],
    own: Mapping[str, str],
    reasons: Mapping[str, str],
    newest: Sequence[str],
    keep: int,
) -> str:
    """Why an image stays, the weightiest reason; empty where nothing speaks for it."""
    for identity in identities:
        if identity in reasons:
            return reasons[identity]
    environments = [own[tag] for tag in tags if tag in own]
    if environments:
        return f"is what {', '.join(environments)} means"
    by_hand = [tag for tag in tags if not OURS.fullmatch(tag)]
    if by_hand:
        return f"tag {by_hand[0]} was given by hand"
    return f"one of the {keep} newest" if any(identity in newest for identity in identities) else ""


def prune(call: Invocation, *, keep: int, needed: Mapping[str, str], collecting: bool) -> Outcome:
    """Delete what nothing needs any more, in the registry and on the engines.

    Raises:
        Refused: not everything could be asked, so nobody knows what is needed.
        Locked: an environment is being changed.
    """
    if keep < 1:
        raise Refused("keep-too-few", "--keep 0 would leave nothing to go back to.", next_command="--keep 1 or more")
    registry, _ = open_registry(call)
    with contextlib.ExitStack() as held:
        if not call.dry_run:
            _lock_all(call, held)
        seen = observe(call.stack, registry)
        if seen.problems:
            raise seen.problems[0]
        decisions = decide(call.stack, seen, needed, keep)
        doomed = [one for one in decisions if one.goes]
        loose = [(engine, image) for engine, _ in engines(call.stack) for image in _loose(call.stack, engine, needed)]
        plan = Plan(tuple(_steps(doomed, loose, keep, collecting=collecting)))
        if not call.dry_run and len(plan):
            if not call.yes:
                call.output.confirm(f"{len(plan)} images or tags will be deleted.")
            _carry_out(call, registry, doomed, loose, collecting=collecting)
    rows = tuple(
        (one.repository, ", ".join(one.tags), _place(one.where), one.stays) for one in decisions if not one.goes
    )
    return Outcome(
        value={"deleted" if not call.dry_run else "doomed": [str(step) for step in plan], "kept": len(rows)},
        changed=len(plan) > 0 and not call.dry_run,
        plan=plan,
        tables=[Table(("image", "tags", "where", "stays because"), rows, title="What stays")] if rows else [],
        lines=_last_words(call, doomed, collecting=collecting, planned=len(plan)),
    )


def _lock_all(call: Invocation, held: contextlib.ExitStack) -> None:
    """Nothing is deployed while we decide what no deploy needs."""
    for engine, names in engines(call.stack):
        for name in names:
            purpose = f"invoke {call.output.command}"
            held.enter_context(lock.hold(engine, call.stack.project(name), purpose, _readers(call.stack, engine)))


def _readers(stack: Stack, engine: Engine) -> list[str]:
    return [*stack.bases, *(tag for image in _any(stack, engine) for tag in image.tags)]


def _any(stack: Stack, engine: Engine) -> Iterable[Found]:
    return (
        found
        for image in stack.images.values()
        for found in images.of_repository(engine, f"{stack.registry}/{image.repository}")
    )


def _loose(stack: Stack, engine: Engine, needed: Mapping[str, str]) -> list[Found]:
    """Images of this stack that a rebuild has left without a tag, and that no registry knows."""
    found = images.dangling(engine, f"{STACK}={stack.name}")
    return [image for image in found if not image.digests and image.id not in needed]


def _steps(
    doomed: Sequence[Decision], loose: Sequence[tuple[Engine, Found]], keep: int, *, collecting: bool
) -> Iterator[Step]:
    yield from (one.step(keep) for one in doomed)
    for _, image in loose:
        yield Step("delete", f"image {image.id[:19]} (engine)", "a rebuild has left it without a tag", destroys=True)
    if collecting:
        yield Step("collect", "registry garbage", "--collect; the registry is down meanwhile")


def _carry_out(
    call: Invocation,
    registry: Registry,
    doomed: Sequence[Decision],
    loose: Sequence[tuple[Engine, Found]],
    *,
    collecting: bool,
) -> None:
    places = {engine.address: engine for engine, _ in engines(call.stack)}
    with call.output.progress("pruning images") as progress:
        for one in doomed:
            progress.step(f"deleting {one.repository}:{', '.join(one.tags) or one.digest[:19]}")
            if one.where == "registry":
                _refuse_moved(registry, one)
                registry.delete(one.repository, one.digest)
            else:
                _remove(call.stack, places[one.where], one)
        for engine, image in loose:
            with contextlib.suppress(EngineRefused):  # a container of somebody else uses it
                images.remove(engine, image.id)
        if collecting:
            collect(call.stack, progress)


def _remove(stack: Stack, engine: Engine, one: Decision) -> None:
    """An image of an engine goes with its last tag; one without tags by its id."""
    names = [f"{stack.registry}/{one.repository}:{tag}" for tag in one.tags] or [one.digest]
    for name in names:
        with contextlib.suppress(EngineRefused):  # a container of somebody else uses it
            images.remove(engine, name)


def _refuse_moved(registry: Registry, one: Decision) -> None:
    """A tag that was given to this manifest since the plan was made is somebody's, and would go with it."""
    now = [tag for tag in registry.tags(one.repository) if registry.digest(one.repository, tag) == one.digest]
    if set(now) - set(one.tags):
        raise Refused(
            "tag-moved",
            f"{one.repository} got the tag {', '.join(sorted(set(now) - set(one.tags)))} since this began.",
            looked_at=[one.digest],
            next_command="invoke images.prune --dry-run",
        )


def _place(where: str) -> str:
    return where if where == "registry" else "engine"


def _last_words(call: Invocation, doomed: Sequence[Decision], *, collecting: bool, planned: int) -> list[str]:
    if not planned:
        return [] if call.dry_run else ["Nothing to do: everything there is needed."]
    remote = any(one.where == "registry" for one in doomed)
    if remote and not collecting and not call.dry_run:
        return ["The registry's disk is freed by its garbage collection: invoke images.prune --collect"]
    return []
