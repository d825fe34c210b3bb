"""invoke images.prune: decides which images may go and why the others stay, then deletes by digest.

The decision is pure. A registry deletes a manifest together with every tag that means it, so tags are judged in groups:
if one must stay, all do.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

from conche.command import Invocation
from conche.engine import images
from conche.engine.connection import Engine
from conche.engine.images import LocalImage
from conche.errors import ConcheError, Partial, Refused
from conche.images.needed import needed
from conche.locking import every
from conche.outcome import Action, Kind, Outcome, Plan, Step, Table
from conche.stack import Stack
from conche.supply.collect import collect, located, resume
from conche.supply.description import CREATED, moment
from conche.supply.inventory import STACK, Inventory, Kept, digests, engines, observe, own_here, own_names
from conche.supply.login import open_registry
from conche.supply.reference import parse
from conche.supply.registry import Registry

__all__ = ["ImageDecision", "decide", "prune"]

OURS = re.compile(r"[0-9a-f]{7,40}(-dirty)?")
"""Tags that images.build assigns; any other was given by hand, and stays."""


@dataclass(frozen=True)
class ImageDecision:
    """The fate of one image in one place.

    Attributes:
        where: `registry`, or an engine's address.
        digest: the manifest's digest in the registry; the image's id on an engine.
        stays: why it is kept; empty if it goes.
        because: why it goes, if it does.
        called: the engine's name for the image, without the tag; empty in the registry.
    """

    where: str
    repository: str
    digest: str
    tags: tuple[str, ...]
    stays: str
    because: str
    called: str = ""

    @property
    def goes(self) -> bool:
        return not self.stays

    @property
    def name(self) -> str:
        """The name that people use for it."""
        return f"{self.repository}:{', '.join(self.tags)}" if self.tags else f"{self.repository}@{self.digest[:19]}"

    def step(self) -> Step:
        return Step(Action.DELETE, Kind.IMAGE, f"{self.name} ({_place(self.where)})", self.because, destroys=True)


@dataclass(frozen=True)
class ImageNeeds:
    """What an image may be needed for.

    Attributes:
        reasons: digest or image id -> why it must stay.
        meant: tag -> the environment that it belongs to.
        keep: how many of the newest images to keep in each repository.
    """

    reasons: Mapping[str, str]
    meant: Mapping[str, str]
    keep: int

    @property
    def none(self) -> str:
        """Why an image goes."""
        return f"not one of the {self.keep} newest; no environment runs it"

    def newest(self, made: Mapping[str, datetime]) -> list[str]:
        """Return the newest, and any as new as the last of them: an index has the same age as the image in it."""
        dates = sorted(made.values(), reverse=True)[: self.keep]
        return [one for one, date in made.items() if date >= dates[-1]] if dates else []

    def why(self, tags: Sequence[str], identities: Sequence[str], newest: Sequence[str]) -> str:
        """Return the strongest reason why an image stays; empty if there is none."""
        for identity in identities:
            if identity in self.reasons:
                return self.reasons[identity]
        environments = [self.meant[tag] for tag in tags if tag in self.meant]
        if environments:
            return f"is what {', '.join(environments)} means"
        by_hand = [tag for tag in tags if not OURS.fullmatch(tag)]
        if by_hand:
            return f"tag {by_hand[0]} was given by hand"
        return f"one of the {self.keep} newest" if any(identity in newest for identity in identities) else ""


def decide(stack: Stack, seen: Inventory, wanted: Mapping[str, str], keep: int) -> list[ImageDecision]:
    """Judge every image of the registry and of the engines.

    Args:
        wanted: digest or image id -> why it must stay, such as a release that a rollback may need.
        keep: how many of the newest images to keep in each repository, in each place.
    """
    reasons = {**wanted}
    for run in seen.running:
        for identity in (run.id, *run.digests):
            reasons.setdefault(identity, f"runs in {run.environment}")
    meant = {environment.tag: name for name, environment in stack.environments.items()}
    decisions = [*_in_registry(seen.kept, ImageNeeds(reasons, meant, keep))]
    for address, found in seen.local.items():
        here = {**{one: f"container {name} uses it" for one, name in seen.used[address].items()}, **reasons}
        decisions += _on_engine(stack, address, found, ImageNeeds(here, meant, keep))
        decisions += _loose(stack, address, seen.loose[address], here)
    return decisions


def _in_registry(kept: Sequence[Kept], needs: ImageNeeds) -> Iterator[ImageDecision]:
    for repository in sorted({one.repository for one in kept}):
        groups: dict[str, list[Kept]] = {}
        for one in kept:
            if one.repository == repository:
                groups.setdefault(one.digest, []).append(one)
        made = {digest: when for digest, group in groups.items() if (when := moment(group[0].created))}
        newest = needs.newest(made)
        for digest, group in groups.items():
            tags = tuple(one.tag for one in group)
            # An engine may know an index only by its own platform's image.
            stays = needs.why(tags, (digest, *sorted(group[0].parts)), newest)
            stays = stays or ("" if digest in made else _undated(group[0].problem))
            yield ImageDecision("registry", repository, digest, tags, stays, needs.none)


def _on_engine(stack: Stack, address: str, found: Sequence[LocalImage], needs: ImageNeeds) -> Iterator[ImageDecision]:
    own_by_name = {parse(name).name: repository for name, repository in own_names(stack).items()}
    ours = [one for one in found if one.labels.get(STACK) == stack.name]
    built = {parse(text).at_any_tag for one in ours for text in one.tags}
    names = {**{at.name: at.familiar for at in built}, **own_by_name}
    for name, repository in sorted(names.items()):
        here = [one for one in found if any(parse(text).name == name for text in (*one.tags, *one.digests))]
        made = {image.id: when for image in here if (when := moment(image.labels.get(CREATED) or image.created))}
        tagged = [image.id for image in here if image.tags and image.id in made]
        newest = needs.newest({one: made[one] for one in tagged})
        for image in here:
            tags = tuple(parse(tag).tag for tag in image.tags if parse(tag).name == name)
            known = tuple(parse(text).digest for text in image.digests)
            stays = needs.why(tags, (image.id, *known), newest)
            stays = stays or ("" if image.id in made else _undated(""))
            called = parse(name).at_any_tag.familiar
            yield ImageDecision(address, repository, image.id, tags, stays, needs.none, called)


def _loose(
    stack: Stack, address: str, found: Sequence[LocalImage], reasons: Mapping[str, str]
) -> Iterator[ImageDecision]:
    """Judge the images that a rebuild has left without a tag and that no registry has."""
    for image in found:
        if not image.digests:
            because = "a rebuild left it without a tag"
            yield ImageDecision(address, stack.name, image.id, (), reasons.get(image.id, ""), because)


def _undated(problem: str) -> str:
    """Return why an image of unknown age stays."""
    return f"its age is not known{': ' if problem else ''}{problem.rstrip('.')}"


def prune(call: Invocation, *, keep: int, collecting: bool) -> Outcome:
    """Delete the images that nothing needs any more, in the registry and on the engines.

    Raises:
        Refused: `keep` is too small, or the registry whose garbage to collect is not here.
        ConcheError: not everything could be asked, so what is needed is unknown.
        Locked: an environment is being changed.
        Partial: some could not be deleted, with the reason for each; the others are gone.
    """
    if keep < 1:
        raise Refused("keep-too-few", "--keep 0 would leave nothing to roll back to.", next_command="--keep 1 or more")
    # If there is no registry to collect in, open_registry raises the error.
    registry = open_registry(call.vault) if call.stack.registry or collecting else None
    # Neither this machine nor another may deploy while we decide what no deploy needs.
    with every(call, lambda engine: _readers(call.stack, engine)):
        if not call.dry_run and registry:
            resume(registry, call.output.say)
        if registry and collecting:
            located(registry.host)
        seen = observe(call.stack, registry)
        if seen.problems:
            raise seen.problems[0]
        decisions = decide(call.stack, seen, needed(call.stack), keep)
        doomed = [one for one in decisions if one.goes]
        plan, left = Plan(tuple(_steps(doomed, collecting=collecting))), dict[ImageDecision, ConcheError]()
        if not call.dry_run and len(plan):
            if not call.yes:
                call.output.confirm(f"{len(plan)} images or tags will be deleted.")
            left = _carry_out(call, registry, doomed, collecting=collecting)
    kept = [one for one in decisions if not one.goes]
    rows = tuple((one.repository, ", ".join(one.tags), _place(one.where), one.stays) for one in kept)
    deleted = [] if call.dry_run else [one for one in doomed if one not in left]
    outcome = Outcome(
        value={"deleted": [asdict(one) for one in deleted], "kept": [asdict(one) for one in kept]},
        changed=bool(deleted) or (collecting and not call.dry_run),
        plan=plan,
        tables=[Table(("image", "tags", "where", "stays because"), rows, title="What stays")] if rows else [],
        lines=_last_words(call, doomed, collecting=collecting, planned=len(plan)),
    )
    if left:
        raise _incomplete(left, len(doomed), outcome)
    return outcome


def _readers(stack: Stack, engine: Engine) -> list[str]:
    """Return the images that a lock can be made from, first the bases, which are not deleted."""
    return [*stack.bases, *(tag for image in own_here(stack, engine) for tag in image.tags)]


def _steps(doomed: Sequence[ImageDecision], *, collecting: bool) -> Iterator[Step]:
    yield from (one.step() for one in doomed)
    if collecting:
        yield Step(Action.COLLECT, Kind.REGISTRY, "garbage", "--collect; the registry is down during that")


def _carry_out(
    call: Invocation, registry: Registry | None, doomed: Sequence[ImageDecision], *, collecting: bool
) -> dict[ImageDecision, ConcheError]:
    """Delete one image after the other; return those that stay, each with its error."""
    places = {engine.address: engine for engine, _ in engines(call.stack)}
    left: dict[ImageDecision, ConcheError] = {}
    with call.output.progress("pruning images") as progress:
        for number, one in enumerate(doomed):
            progress.step(f"deleting {one.name}")
            progress.amount(f"deleting {one.name}", number, len(doomed))
            try:
                if registry and one.where == "registry":
                    _refuse_moved(registry, one)
                    registry.delete(one.repository, one.digest)
                else:
                    _remove(places[one.where], one)
            except ConcheError as error:
                left[one] = error
                progress.step(f"{one.name} stays: {error.message}")
        if registry and collecting:
            collect(registry, progress)
    return left


def _incomplete(left: Mapping[ImageDecision, ConcheError], count: int, outcome: Outcome) -> Partial:
    error = Partial(
        "prune-incomplete",
        f"{len(left)} of {count} images were not deleted; the others were.",
        looked_at=[one.message for one in left.values()],
        evidence=[words for one in left.values() for words in one.evidence],
        next_command="invoke images.prune --dry-run",
    )
    error.rest = outcome
    return error


def _remove(engine: Engine, one: ImageDecision) -> None:
    """Remove an image's tags from an engine, the last of which removes the image; without tags, remove it by id."""
    for name in [f"{one.called}:{tag}" for tag in one.tags] or [one.digest]:
        images.remove(engine, name)


def _refuse_moved(registry: Registry, one: ImageDecision) -> None:
    """Refuse if the manifest got a new tag since the plan was made: somebody wants it, and it would be deleted too."""
    now = {tag for tag, digest in digests(registry, one.repository).items() if digest == one.digest}
    if now - set(one.tags):
        raise Refused(
            "tag-moved",
            f"{one.name} got the tag {', '.join(sorted(now - set(one.tags)))} meanwhile.",
            next_command="invoke images.prune --dry-run",
        )


def _place(where: str) -> str:
    return where if where == "registry" else "engine"


def _last_words(call: Invocation, doomed: Sequence[ImageDecision], *, collecting: bool, planned: int) -> list[str]:
    if not planned:
        return [] if call.dry_run else ["Nothing to do: every image is needed."]
    remote = any(one.where == "registry" for one in doomed)
    if remote and not collecting and not call.dry_run:
        return ["To free the registry's disk, collect its garbage: invoke images.prune --collect"]
    return []
