"""invoke images.inspect"""

from __future__ import annotations

from collections.abc import Mapping

from conche.command import Invocation
from conche.engine import images
from conche.engine.connection import Engine
from conche.errors import NotFound
from conche.images.chosen import chosen
from conche.outcome import Outcome, Table
from conche.supply.base import LABEL as MADE
from conche.supply.description import describe
from conche.supply.login import open_registry
from conche.supply.own import in_registry
from conche.supply.reference import Reference, parse
from conche.units import size

__all__ = ["inspect"]


def inspect(call: Invocation, environment: str, image: str | None, reference: str | None) -> Outcome:
    """Show one image: its labels, its contents, and whether a rebuild would give the same bytes."""
    at = _meant(call, environment, image, reference)
    engine = Engine(call.environment(environment).engine)
    found = images.find(engine, str(at))
    registry = open_registry(call.vault) if found is None and in_registry(call.stack, str(at)) else None
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
        return f"equal digests: {said} rewrites the files' times"
    return f"equal contents only: {said} keeps the files' times; engine 26 with containerd's image store rewrites them"


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
