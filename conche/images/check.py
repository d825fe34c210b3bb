"""invoke images.check: checks whether an image is fit for an environment; exits with 1 on findings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from conche.command import Invocation
from conche.engine import images
from conche.engine.builds import base_images
from conche.engine.connection import Engine
from conche.engine.dockerfile import references
from conche.engine.images import LocalImage
from conche.errors import NotFound
from conche.images.chosen import chosen
from conche.outcome import Outcome, Table
from conche.supply.inventory import CREATED, REVISION, age
from conche.supply.own import Own
from conche.supply.reference import parse
from conche.units import size, span

__all__ = ["check"]

LABELS = (CREATED, REVISION, "org.opencontainers.image.version")

GROWTH = 1.25
"""How many times the size of the previous image an image may have."""

BASE_AGE = 90 * 86400.0
"""Seconds after which a base image counts as having missed too many security updates."""


@dataclass(frozen=True)
class _Finding:
    check: str
    state: str
    words: str


def check(call: Invocation, environment: str, image: str | None) -> Outcome:
    """Check labels, user, secrets in layers and history, size relative to the previous image, and age of the bases."""
    engine = Engine(call.environment(environment).engine)
    findings: dict[str, list[_Finding]] = {}
    for own in chosen(call, environment, image):
        reference = own.reference
        found = images.find(engine, reference)
        if found is None:
            raise NotFound(
                "no-such-image",
                f"The engine does not have {reference}.",
                looked_at=[engine.address],
                next_command=f"invoke images.build --env {environment}\ninvoke images.pull --env {environment}",
            )
        with call.output.progress(f"checking {reference}"):
            findings[reference] = [
                _labels(found),
                _user(found),
                _secrets(call, engine, reference),
                _size(engine, found, reference),
                *_bases(call, engine, own),
            ]
    rows = tuple((ref, one.check, one.state, one.words) for ref, several in findings.items() for one in several)
    return Outcome(
        value={
            ref: [{"check": o.check, "state": o.state, "said": o.words} for o in several]
            for ref, several in findings.items()
        },
        tables=[Table(("image", "check", "state", "what was seen"), rows)],
        exit_code=1 if any(one.state == "failed" for several in findings.values() for one in several) else 0,
    )


def _labels(found: LocalImage) -> _Finding:
    missing = [name for name in LABELS if not found.labels.get(name)]
    if missing:
        return _Finding("labels", "failed", f"lacks {', '.join(missing)}")
    at = found.labels[REVISION]
    state = "failed" if at == "unknown" else "unknown" if at.endswith("-dirty") else "ok"
    return _Finding("labels", state, f"revision {at}" + (", with uncommitted changes" if at.endswith("-dirty") else ""))


def _user(found: LocalImage) -> _Finding:
    root = found.user.partition(":")[0] in ("", "0", "root")
    return _Finding("user", "failed" if root else "ok", f"runs as {found.user or 'root'}")


def _secrets(call: Invocation, engine: Engine, reference: str) -> _Finding:
    """Search the image for secrets; without a key this reports `unknown`, which is not a failure."""
    if call.stack.secrets is None or call.vault.key is None:
        return _Finding("secrets", "unknown", "without a key there is nothing to look for: invoke secrets.init")
    from conche.vault.leaks import Needles
    from conche.vault.leaks_in_images import scan_image

    values = call.vault.everything()
    hits = scan_image(engine, reference, Needles(values))
    if hits:
        return _Finding("secrets", "failed", "; ".join(f"{hit.name} in {hit.place}" for hit in hits))
    return _Finding("secrets", "ok", f"none of {len(values)} values is in a layer or the history")


def _size(engine: Engine, found: LocalImage, reference: str) -> _Finding:
    """Compare with the newest other image of its repository on the engine; registries only know compressed sizes."""
    now = size(found.size)
    last = next((one for one in images.of_repository(engine, parse(reference).name) if one.id != found.id), None)
    if last is None:
        return _Finding("size", "unknown", f"{now}; the engine has no earlier one to compare with")
    grown = found.size > GROWTH * last.size
    said = f"{now}; the last one, {last.labels.get(REVISION) or last.id[7:19]}: {size(last.size)}"
    return _Finding("size", "failed" if grown else "ok", said)


def _bases(call: Invocation, engine: Engine, own: Own) -> Iterator[_Finding]:
    if own.compose is None:
        dockerfile = call.root / call.stack.images[own.name].dockerfile
        asked = references(dockerfile.read_text(encoding="utf-8"))
    else:
        asked = base_images(own.rendered, own.name)
    for reference in asked:
        base = images.find(engine, reference)
        old = age(base.created, datetime.now(UTC)) if base else None
        if old is None:
            yield _Finding("base", "unknown", f"{reference}: its age is not known")
        else:
            state = "failed" if old > BASE_AGE else "ok"
            hint = "; renew it: invoke images.base --renew" if old > BASE_AGE else ""
            yield _Finding("base", state, f"{reference}: {span(old)} old{hint}")
