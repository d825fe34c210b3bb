"""invoke images.list"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from conche.command import Invocation
from conche.outcome import Outcome, Table
from conche.supply.inventory import CREATED, REVISION, Inventory, Kept, age, observe
from conche.supply.login import open_registry
from conche.supply.own import in_registry
from conche.supply.reference import parse
from conche.units import size, span

__all__ = ["list_"]

COLUMNS = ("image", "tag", "digest", "size", "age", "revision", "where", "runs in")


def list_(call: Invocation) -> Outcome:
    """List the tags of this stack's images, in the registry and on the engines, and where they run."""
    registry = open_registry(call.vault) if call.stack.registry else None
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


def _in_registry(one: Kept, seen: Inventory, now: datetime) -> dict[str, object]:
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


def _only_local(call: Invocation, seen: Inventory, now: datetime) -> list[dict[str, object]]:
    """Return the tags that an engine has but the registry lacks, or uses for another image."""
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


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]
