"""images.list, images.inspect: looks that change nothing."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from conche.command import Invocation
from conche.engine import images
from conche.engine.connection import Engine
from conche.errors import NotFound
from conche.images.base import LABEL as MADE
from conche.images.description import describe
from conche.images.login import open_registry
from conche.images.observe import CREATED, REVISION, Kept, Observed, age, observe
from conche.images.own import chosen, in_registry
from conche.images.reference import Reference, parse
from conche.outcome import Outcome, Table
from conche.units import size, span

__all__ = ["inspect", "list_images"]

COLUMNS = ("image", "tag", "digest", "size", "age", "revision", "where", "runs in")


def list_images(call: Invocation) -> Outcome:
    """The tags of this stack's images, in the registry and on the engines, and what runs."""
    registry = open_registry(call)[0] if call.stack.registry else None
    seen = observe(call.stack, registry)
    now = datetime.now(UTC)
    entries = [*(_in_registry(one, seen, now) for one in seen.kept), *_only_local(call, seen, now)]
    entries.sort(key=lambda entry: (str(entry["repository"]), str(entry["created"])), reverse=True)
    rows = tuple(_row(entry) for entry in entries)
    return Outcome(
        value=entries,
        tables=[Table(COLUMNS, rows)] if rows else [],
        lines=[]
        if rows
        else [f"There are no images yet. Next: invoke images.release --env {next(iter(call.stack.environments))}"],
        warnings=[problem.message for problem in seen.problems]
        + [f"{one.repository}:{one.tag}: {one.problem}" for one in seen.kept if one.problem],
    )


def _in_registry(one: Kept, seen: Observed, now: datetime) -> dict[str, object]:
    identities = {one.digest, *one.parts}
    known = {parse(text).digest for found in seen.local.values() for image in found for text in image.digests}
    return {
        "repository": one.repository,
        "tag": one.tag,
        "digest": one.digest,
        "size": one.size,
        "created": one.created,
        "age": age(one.created, now),
        "revision": one.revision,
        "where": ["registry", *(["engine"] if identities & known else [])],
        "runs_in": sorted({run.environment for run in seen.running if identities & run.digests}),
    }


def _only_local(call: Invocation, seen: Observed, now: datetime) -> list[dict[str, object]]:
    """Tags that an engine has and the registry has not, or means something else by."""
    kept = {(one.repository, one.tag): {one.digest, *one.parts} for one in seen.kept}
    entries: list[dict[str, object]] = []
    for found in seen.local.values():
        for image in found:
            digests = {parse(text).digest for text in image.digests}
            for at in map(parse, image.tags):
                here = in_registry(call.stack, str(at))
                if here and kept.get((at.repository, at.tag), set()) & digests:
                    continue
                entries.append(
                    {
                        "repository": at.repository if here else at.at_any_tag.familiar,
                        "tag": at.tag,
                        "digest": "",
                        "size": image.size,
                        "created": image.labels.get(CREATED, image.created),
                        "age": age(image.labels.get(CREATED, image.created), now),
                        "revision": image.labels.get(REVISION, ""),
                        "where": ["engine"],
                        "runs_in": sorted({run.environment for run in seen.running if run.id == image.id}),
                    }
                )
    return entries


def _row(entry: Mapping[str, object]) -> tuple[str, ...]:
    where, runs, old = entry["where"], entry["runs_in"], entry["age"]
    assert isinstance(where, list)
    assert isinstance(runs, list)
    return (
        str(entry["repository"]),
        str(entry["tag"]),
        _short(str(entry["digest"])) or "not pushed",
        size(float(str(entry["size"]))),
        span(old) if isinstance(old, float) else "unknown",
        str(entry["revision"]) or "unknown",
        ", ".join(where),
        ", ".join(runs) or "-",
    )


def inspect(call: Invocation, environment: str, image: str | None, reference: str | None) -> Outcome:
    """One image: what it says of itself, what it is made of, and whether a rebuild would give the same bytes."""
    at = _meant(call, environment, image, reference)
    engine = Engine(call.environment(environment).engine)
    found = images.find(engine, str(at))
    registry = open_registry(call)[0] if found is None and in_registry(call.stack, str(at)) else None
    kept = registry.manifest(at.repository, at.wanted) if registry else None
    if found is None and kept is None:
        raise NotFound(
            "no-such-image",
            f"Neither the engine nor the registry has {at}.",
            looked_at=[engine.address, *([call.stack.registry] if call.stack.registry else [])],
            next_command="invoke images.list",
        )
    if found is not None:
        value: dict[str, object] = {
            "reference": str(at),
            "id": found.id,
            "digests": list(found.digests),
            "created": found.created,
            "user": found.user or "root",
            "size": found.size,
            "layers": list(found.layers),
            "labels": dict(found.labels),
        }
    else:
        assert kept is not None
        assert registry is not None
        described = describe(registry, at.repository, kept)
        configuration, said = described.configuration, described.configuration.get("config") or {}
        value = {
            "reference": str(at),
            "id": kept.configured or kept.digest,
            "digests": [str(at.pinned(kept.digest))],
            "created": described.created,
            "user": said.get("User") or "root",
            "size": described.size,
            "layers": (configuration.get("rootfs") or {}).get("diff_ids") or [],
            "labels": said.get("Labels") or {},
        }
    value["reproducible"] = _reproducible(engine)
    return Outcome(value=value, tables=[_table(value)])


def _meant(call: Invocation, environment: str, image: str | None, reference: str | None) -> Reference:
    if reference is not None:
        return parse(reference)
    return parse(chosen(call, environment, image)[0].reference)


def _reproducible(engine: Engine) -> str:
    can, said = images.normalises(engine)
    if can:
        return f"equal digests: {said} writes the files' times anew"
    return f"equal contents only: {said} keeps the files' times; engine 26 with containerd's image store does better"


def _table(value: Mapping[str, object]) -> Table:
    labels, layers, digests = value["labels"], value["layers"], value["digests"]
    assert isinstance(labels, Mapping)
    assert isinstance(layers, list)
    assert isinstance(digests, list)
    rows = [
        ("reference", str(value["reference"])),
        ("id", str(value["id"])),
        *(("digest", str(digest)) for digest in digests),
        ("created", str(value["created"])),
        ("user", str(value["user"])),
        ("size", size(float(str(value["size"])))),
        ("layers", str(len(layers))),
        ("base", f"made here ({labels[MADE]})" if MADE in labels else "pulled"),
        *((name, str(text)) for name, text in sorted(labels.items())),
        ("rebuild", str(value["reproducible"])),
    ]
    return Table(("what", "value"), tuple(rows))


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]
