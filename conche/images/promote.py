"""invoke images.promote: makes a tag mean another manifest, within the registry and without moving layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from conche.command import Invocation
from conche.engine.connection import Engine
from conche.errors import ConcheError, NotFound, Partial, Refused
from conche.images.chosen import chosen
from conche.outcome import Action, Kind, Outcome, Plan, Step, Table
from conche.supply.inventory import Running, running
from conche.supply.login import open_registry
from conche.supply.own import Own
from conche.supply.reference import Reference, parse
from conche.supply.registry import ImageManifest, Registry

__all__ = ["Move", "carry_out", "promote"]


@dataclass(frozen=True)
class Move:
    """A tag to be moved to a manifest.

    Attributes:
        before: the digest that the tag meant when the plan was made; None if it did not exist.
    """

    target: Reference
    manifest: ImageManifest
    before: str | None
    cause: str

    def step(self) -> Step:
        undo = f"tag image {self.target.repository}@{self.before} as {self.target.tag}" if self.before else ""
        return Step(
            Action.TAG,
            Kind.IMAGE,
            f"{self.target.pinned(self.manifest.digest)} as {self.target.tag}",
            self.cause,
            undo=undo,
        )


def promote(call: Invocation, source: str, destination: str, *, image: str | None, allow_dirty: bool) -> Outcome:
    """Make the destination's tag mean exactly the image that runs in the source environment.

    Raises:
        Refused: nothing healthy runs there, it was never pushed, or it was built from a tree with uncommitted changes.
    """
    given = chosen(call, source, image)
    call.environment(destination)
    if source == destination:
        raise Refused("same-environment", f"{source} cannot be promoted to itself.")
    registry = open_registry(call.vault)
    runs = running(call.stack, Engine(call.environment(source).engine), source)
    promotion = Promotion(call, registry, source, destination, runs, allow_dirty)
    targets = {one.name: one.reference for one in chosen(call, destination, image)}
    moves = [promotion.move(one, targets[one.name]) for one in given if one.name in targets]
    return carry_out(call, registry, moves, f"invoke env.deploy --env {destination}")


@dataclass(frozen=True)
class Promotion:
    """A promotion from one environment to another.

    Attributes:
        runs: the containers that run in the source.
        allow_dirty: promote even what was built with uncommitted changes.
    """

    call: Invocation
    registry: Registry
    source: str
    destination: str
    runs: Sequence[Running]
    allow_dirty: bool

    def move(self, own: Own, meant: str) -> Move:
        """Return the move of the destination's tag to the image that runs in the source.

        Args:
            own: the image, as the source has it.
            meant: its reference in the destination.

        Raises:
            Refused: nothing healthy runs there, it was never pushed, or it was built with uncommitted changes.
        """
        call, source, destination = self.call, self.source, self.destination
        repository = parse(own.reference).repository
        here = [one for one in self.runs if one.repository == repository]
        if not here:
            tags = [call.environment(one).tag for one in (source, destination)]
            raise Refused(
                "nothing-runs",
                f"No container of {source} runs {repository}, so nothing shows that it works.",
                next_command=f"invoke env.up --env {source}\ninvoke images.tag {tags[0]} {tags[1]}    # without proof",
            )
        sick = [one for one in here if one.state != "running" or one.health not in ("healthy", "none")]
        if sick:
            raise Refused(
                "not-healthy",
                f"What runs in {source} is not healthy.",
                looked_at=[f"{one.service}: {one.state}, {one.health}" for one in sick],
                next_command=f"invoke env.status --env {source}\ninvoke env.up --env {source}",
            )
        manifest = _pushed(self.registry, repository, here, source)
        revisions = {one.revision for one in here}
        if any(revision.endswith("-dirty") for revision in revisions) and not self.allow_dirty:
            raise Refused(
                "tree-dirty",
                f"What runs in {source} was built with uncommitted changes ({', '.join(sorted(revisions))}).",
                next_command=f"invoke images.release --env {source}    # from a commit\n"
                f"invoke {call.output.command} --from {source} --to {destination} --allow-dirty",
            )
        target = parse(meant)
        services = ", ".join(sorted({one.service for one in here}))
        return Move(target, manifest, self.registry.digest(repository, target.tag), f"runs in {source} as {services}")


def _pushed(registry: Registry, repository: str, runs: Sequence[Running], source: str) -> ImageManifest:
    """Return the manifest of the running image; all its containers must run the same one."""
    if len({one.id for one in runs}) > 1:
        raise Refused(
            "several-images-run",
            f"{source} runs several images of {repository}; which one do you mean?",
            looked_at=[f"{one.service}: {one.revision or one.id}" for one in runs],
            next_command=f"invoke env.up --env {source}",
        )
    known = runs[0].digests | {one.digest for one in runs if one.digest}
    found = {digest: one for digest in known if (one := _found(registry, repository, digest))}
    if found:
        return _meant(registry, repository, runs, found)
    raise Refused(
        "image-not-pushed",
        f"What runs in {source} is not in the registry.",
        looked_at=[f"{repository}, revision {runs[0].revision or 'unknown'}"],
        next_command=f"invoke images.push --env {source}",
    )


def _found(registry: Registry, repository: str, digest: str) -> ImageManifest | None:
    try:
        return registry.manifest(repository, digest)
    except NotFound:
        return None


def _meant(
    registry: Registry, repository: str, runs: Sequence[Running], found: Mapping[str, ImageManifest]
) -> ImageManifest:
    """Choose among several manifests of one image.

    Prefer the digest that its containers were made from, then what their tags mean now, then the index of the others.

    Raises:
        Refused: nothing tells them apart.
    """
    asked = {one.digest for one in runs} & found.keys()
    tags = {one.tag for one in runs if one.tag} if len(found) > 1 and not asked else set()
    now = {registry.digest(repository, tag) for tag in tags} & found.keys()
    below = {str(one["digest"]) for manifest in found.values() for one in manifest.listed or ()}
    for meant in (asked, now, found.keys() - below):
        if len(meant) == 1:
            return found[str(next(iter(meant)))]
    raise Refused(
        "digest-unclear",
        f"The registry has what runs as {repository} under several digests; which one is meant is not clear.",
        looked_at=sorted(found),
        next_command="invoke images.tag sha256:… TAG    # the one you mean, and the destination's tag",
    )


def carry_out(call: Invocation, registry: Registry, moves: Sequence[Move], following: str) -> Outcome:
    """Move each tag to its manifest; `following` is the command to type next."""
    wanted = [move for move in moves if move.before != move.manifest.digest]
    taken: list[Move] = []
    try:
        if not call.dry_run:
            _take_all(registry, wanted, taken)
    except Partial as error:
        there = [move for move in moves if move not in wanted or move in taken]
        error.rest = _outcome(call, there, wanted, following)
        raise
    return _outcome(call, moves, wanted, following)


def _outcome(call: Invocation, moves: Sequence[Move], wanted: Sequence[Move], following: str) -> Outcome:
    rows = tuple((str(move.target), move.manifest.digest, move.before or "none") for move in moves)
    next_line = [f"Next: {following}"] if following and wanted and not call.dry_run else []
    return Outcome(
        value=[
            {
                "reference": str(move.target),
                "image": str(move.target.pinned(move.manifest.digest)),
                "digest": move.manifest.digest,
                "before": move.before,
            }
            for move in moves
        ],
        changed=bool(wanted) and not call.dry_run,
        plan=Plan(tuple(move.step() for move in wanted)),
        tables=[] if call.dry_run else [Table(("reference", "digest", "before"), rows)],
        lines=next_line if wanted else ["Nothing to do: it already is that image."],
    )


def _take_all(registry: Registry, moves: Sequence[Move], taken: list[Move]) -> None:
    """Move every tag, or none if one of them has been moved since the plan was made.

    Args:
        taken: gets each as soon as it is moved.

    Raises:
        Partial: a tag after the first failed; lists those that were moved.
    """
    for move in moves:
        _refuse_moved(registry, move)
    for move in moves:
        try:
            _take(registry, move)
        except ConcheError as error:
            if not taken:
                raise
            raise Partial(
                "promoted-in-part",
                f"{len(taken)} of {len(moves)} tags were moved; then: {error.message}",
                looked_at=[f"moved: {one.target}" for one in taken] + [*error.looked_at],
                evidence=error.evidence,
                next_command="run the same command again: moved tags stay",
            ) from error
        taken.append(move)


def _refuse_moved(registry: Registry, move: Move) -> None:
    now = registry.digest(move.target.repository, move.target.tag)
    if now not in (move.before, move.manifest.digest):
        raise Refused(
            "tag-moved",
            f"Somebody moved {move.target} meanwhile; it was left alone.",
            looked_at=[f"was {move.before or 'absent'}", f"now {now or 'gone'}"],
            next_command="invoke images.list",
        )


def _take(registry: Registry, move: Move) -> None:
    """Put the manifest under the tag, unless somebody else has moved the tag meanwhile, and verify the result."""
    _refuse_moved(registry, move)
    repository, tag = move.target.repository, move.target.tag
    registry.put(repository, tag, move.manifest)
    after = registry.digest(repository, tag)
    if after != move.manifest.digest:
        raise Refused(
            "tag-moved",
            f"{move.target} is not what was just pushed: somebody else is moving it too.",
            looked_at=[f"put {move.manifest.digest}", f"is {after or 'gone'}"],
            next_command="invoke images.list",
        )
