"""images.build, push, pull, release: from the checkout to the registry and to an engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from conche.command import Invocation
from conche.engine import images, transfer
from conche.engine.connection import Engine
from conche.engine.transfer import Credentials, Pushed
from conche.errors import NotFound, Refused, Unreachable
from conche.images.build import build
from conche.images.login import open_registry, two_sides
from conche.images.own import Own, chosen
from conche.images.reference import Reference, parse
from conche.images.registry import Registry
from conche.images.revision import Revision, revision
from conche.outcome import Outcome, Plan, Step, Table
from conche.output import Progress
from conche.units import size

__all__ = ["build_all", "pull_all", "push_all", "release"]


@dataclass(frozen=True)
class _Given:
    """An image of the stack in one environment."""

    name: str
    reference: Reference
    revision: str

    @property
    def tags(self) -> tuple[str, ...]:
        """The revision's tag first: the environment's means something new only when that is through."""
        return tuple(dict.fromkeys(tag for tag in (self.revision, self.reference.tag) if tag))


def build_all(call: Invocation, environment: str, image: str | None, *, fresh: bool) -> Outcome:
    """Build images for an environment; each gets the environment's tag and its git revision's."""
    given, at = chosen(call, environment, image), revision(call.root)
    engine = _engine(call, environment)
    plan = _build_plan(given, at)
    if call.dry_run:
        return Outcome(plan=plan, warnings=_dirt(at))
    before = {one.name: images.find(engine, one.reference) for one in given}
    with call.output.progress(f"building {', '.join(one.name for one in given)} for {environment}") as progress:
        built = {
            one.name: build(call.stack, call.root, engine, one, progress, fresh=fresh, reproducible=True)
            for one in given
        }
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
        warnings=_dirt(at),
    )


def push_all(call: Invocation, environment: str, image: str | None) -> Outcome:
    """Push what is built for an environment: the revision's tag, then the environment's."""
    own = chosen(call, environment, image)
    engine = _engine(call, environment)
    given = [_built(engine, one, environment) for one in own]
    plan = Plan(
        tuple(Step("push", f"image {one.reference.tagged(tag)}", "asked for") for one in given for tag in one.tags)
    )
    if call.dry_run:
        return Outcome(plan=plan)
    registry, known = open_registry(call, engine)
    registry.check()
    before = {one.name: _meanings(registry, one) for one in given}
    with call.output.progress(f"pushing to {call.stack.registry}") as progress:
        pushed = {one.name: _push(engine, registry, one, known, progress) for one in given}
    rows = tuple(_row(one, pushed[one.name]) for one in given)
    return Outcome(
        value={one.name: _as_json(one, pushed[one.name]) for one in given},
        changed=any(before[one.name] != _meanings(registry, one) for one in given),
        plan=plan,
        tables=[Table(("image", "reference", "digest", "layers moved", "layers there"), rows)],
        warnings=_sides(call, engine),
    )


def pull_all(call: Invocation, environment: str, image: str | None) -> Outcome:
    """Pull an environment's images from the registry."""
    engine = _engine(call, environment)
    given = [parse(one.reference) for one in chosen(call, environment, image)]
    plan = Plan(tuple(Step("pull", f"image {one}", "asked for") for one in given))
    if call.dry_run:
        return Outcome(plan=plan)
    registry, known = open_registry(call, engine)
    # Asked first: the registry tells which tags there are, the engine only that there is none.
    meant = [registry.manifest(one.repository, one.tag) for one in given]
    before = [images.find(engine, str(one)) for one in given]
    with call.output.progress(f"pulling from {call.stack.registry}") as progress:
        for one, manifest in zip(given, meant, strict=True):
            progress.step(f"pulling {one}")
            transfer.pull(engine, one.name, one.tag, known, progress.amount)
            _see_pulled(engine, registry, one, manifest.digest)
    after = [images.find(engine, str(one)) for one in given]
    states = ["same" if old and new and old.id == new.id else "pulled" for old, new in zip(before, after, strict=True)]
    rows = tuple((str(one), state) for one, state in zip(given, states, strict=True))
    return Outcome(
        value={str(one): state for one, state in zip(given, states, strict=True)},
        changed="pulled" in states,
        plan=plan,
        tables=[Table(("image", "state"), rows)],
        lines=[f"Next: invoke env.update --env {environment} --service NAME    # replaces one service by it"],
        warnings=_sides(call, engine),
    )


def release(call: Invocation, environment: str, image: str | None, *, allow_dirty: bool) -> Outcome:
    """Build and push one image; the answer is its reference by digest, alone on stdout.

    Raises:
        Refused: a protected environment's image would be built from a tree that is no commit.
    """
    own, at = chosen(call, environment, image), revision(call.root)
    if at.dirty and call.environment(environment).protected and not allow_dirty:
        raise Refused(
            "tree-dirty",
            f"The checkout is no commit ({at.name}), and {environment} is protected.",
            next_command="git status\ngit commit    # or, knowing what that means: --allow-dirty",
        )
    if len(own) > 1:
        raise Refused(
            "image-unclear",
            "The stack builds several images, and a release is of one.",
            looked_at=[f"images: {', '.join(one.name for one in own)}"],
            next_command=f"invoke images.release --env {environment} --image {own[0].name}",
        )
    name = own[0].name
    engine = _engine(call, environment)
    planned = _Given(name, parse(own[0].reference), at.tag)
    pushes = (Step("push", f"image {planned.reference.tagged(tag)}", "asked for") for tag in planned.tags)
    plan = Plan((*_build_plan(own, at), *pushes))
    if call.dry_run:
        return Outcome(plan=plan, warnings=_dirt(at))
    registry, known = open_registry(call, engine)
    registry.check()
    before = _meanings(registry, planned)
    with call.output.progress(f"releasing {name} for {environment}") as progress:
        build(call.stack, call.root, engine, own[0], progress, reproducible=True)
        pushed = _push(engine, registry, planned, known, progress)
    value = _as_json(planned, pushed)
    return Outcome(
        value=value,
        changed=before != _meanings(registry, planned),
        plan=plan,
        raw=f"{value['image']}\n",
        warnings=_dirt(at) + _sides(call, engine),
    )


def _engine(call: Invocation, environment: str) -> Engine:
    return Engine(call.environment(environment).engine)


def _build_plan(own: Sequence[Own], at: Revision) -> Plan:
    cause = f"of {at.name}" if at.tag else "asked for"
    return Plan(tuple(Step("build", f"image {one.reference}", cause) for one in own))


def _built(engine: Engine, own: Own, environment: str) -> _Given:
    """An image that is on the engine, with the tag of the revision it was built from."""
    reference = parse(own.reference)
    found = images.find(engine, str(reference))
    if found is None:
        raise NotFound(
            "no-such-image",
            f"The engine has no {reference}.",
            looked_at=[engine.address],
            next_command=f"invoke images.build --env {environment}",
        )
    tags = {parse(tag).tag for tag in found.tags if parse(tag).name == reference.name}
    at = found.labels.get("org.opencontainers.image.revision", "")
    return _Given(own.name, reference, at if at in tags else "")


def _meanings(registry: Registry, given: _Given) -> list[str | None]:
    return [registry.digest(given.reference.repository, tag) for tag in given.tags]


def _push(engine: Engine, registry: Registry, given: _Given, known: Credentials | None, progress: Progress) -> Pushed:
    """Push every tag; then see that the registry, as we see it, has what the engine has pushed."""
    results = []
    for tag in given.tags:
        progress.step(f"pushing {given.reference.tagged(tag)}")
        results.append(transfer.push(engine, given.reference.name, tag, known, progress.amount))
    if registry.digest(given.reference.repository, results[-1].digest) is None:
        raise _differs(
            engine, registry, f"does not have {given.reference.pinned(results[-1].digest)}, which was pushed"
        )
    progress.step(f"pushed {given.reference.pinned(results[-1].digest)}: {results[0].moved} layers moved")
    return Pushed(results[-1].digest, results[0].moved, results[0].known)


def _see_pulled(engine: Engine, registry: Registry, one: Reference, meant: str) -> None:
    """See that what the engine has now is what the registry, as we see it, means by the tag; it may have moved."""
    found = images.find(engine, str(one))
    here = {parse(text).digest for text in (found.digests if found else ()) if parse(text).name == one.name}
    if meant not in here and registry.digest(one.repository, one.tag) not in here:
        raise _differs(engine, registry, f"means something else by {one} than what was pulled")


def _differs(engine: Engine, registry: Registry, how: str) -> Unreachable:
    return Unreachable(
        "registry-differs",
        f"{registry.host}, as this machine reaches it, {how}: the engine reaches another registry by that name.",
        looked_at=[engine.address],
        next_command="give `registry` in stack.yaml a name that means the same everywhere",
    )


def _sides(call: Invocation, engine: Engine) -> list[str]:
    said = two_sides(call.stack, engine)
    return [said] if said else []


def _row(given: _Given, pushed: Pushed) -> tuple[str, ...]:
    return given.name, str(given.reference), pushed.digest, str(pushed.moved), str(pushed.known)


def _as_json(given: _Given, pushed: Pushed) -> Mapping[str, object]:
    return {
        "image": str(given.reference.pinned(pushed.digest)),
        "reference": str(given.reference),
        "tags": list(given.tags),
        "digest": pushed.digest,
        "layers_moved": pushed.moved,
        "layers_there": pushed.known,
    }


def _dirt(at: Revision) -> list[str]:
    if not at.tag:
        return ["git does not say which commit this is: the image has no revision tag"]
    return [f"the tree differs from its commit: tagged {at.tag}"] if at.dirty else []


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]
